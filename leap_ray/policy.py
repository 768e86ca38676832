"""History → prompt → completion → (reason, action), in tokens.

Two dialects. `leap` is the paper's: every step is one user message holding the task, the history of observations and actions
without reasons, the current observation and the candidate actions. `chat` is append-only: the first user message holds the
task, every later one an observation, and the student's own completions stand between them as they were sampled. In `chat` the
prompt of step t+1 begins with the prompt and the completion of step t, token for token, so a server's prefix cache and a
learner's prefix tree compute each token once.

Completions are never re-tokenised: what was sampled is what stands in later prompts and in training examples.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from leap_ray.chat_template import ChatTemplate
from leap_ray.config import StudentConfig
from leap_ray.learning.sources import load_tokenizer
from leap_ray.prompts import folder_hash, render
from leap_ray.reasoning import after_thoughts, ends_thoughts
from leap_ray.types import Completion, Episode, Sampling, Step, digest

MARKERS = {"chat": ("think:", "act:"), "leap": ("REASON:", "ACTION:")}


@dataclass(frozen=True)
class View:
    """All that a student may see at a step. Privileged state has no field here, so no template can show it."""

    instruction: str
    history: tuple[tuple[str, str], ...]  # (observation, action), oldest first
    observation: str
    candidates: tuple[str, ...]
    domain_facts: str = ""


@dataclass(frozen=True)
class Parsed:
    """What a completion says. `action` is "" if it did not parse."""

    reason: str
    action: str


class Completer(Protocol):
    """Anything that continues a prompt: the student server, or a stand-in for it."""

    async def complete(
        self, prompt_ids: list[int], sampling: Sampling, seed: int, policy: str, request_id: str
    ) -> Completion: ...


def parse(text: str, dialect: str, multiline: bool = False) -> Parsed:
    """Reason and action of a completion. Never raises: text of another form has the action "".

    What a model thought before its answer (`… </think>`) is left out. The answer must begin with the reason's marker, and the
    action's marker must begin a later line. The action is the rest of that line, or, where actions may have several lines, all
    the rest.
    """
    begins = MARKERS[dialect][0]
    first, second = map(re.escape, MARKERS[dialect])
    rest = r"(.*)" if multiline else r"([^\n]*)"
    answer = after_thoughts(text, begins)
    found = re.match(rf"\s*{first}(.*?)\n\s*{second}[ \t]*{rest}", answer, re.DOTALL)
    if not found:
        return Parsed("", "")
    reason, action = (part.strip() for part in found.groups())
    return Parsed(reason, action)


class Prompter:
    """Turns views into prompt tokens and completions into actions, for one tokenizer and dialect.

    `template`: arguments of the chat template; `date`: what it prints as today's, YYYY-MM-DD; `prefill`: text after its prompts.
    Raises UserError for a chat template with which answers would be read wrongly.
    """

    def __init__(
        self,
        tokenizer: Any,
        dialect: str = "chat",
        show_candidates: bool = True,
        *,
        template: Mapping[str, Any] | None = None,
        date: str | None = None,
        prefill: str = "",
    ) -> None:
        self.tokenizer = tokenizer
        self.dialect = dialect
        self.show_candidates = show_candidates
        self.template = ChatTemplate(tokenizer, template, date, prefill)
        self.template.check()
        self.hash = digest(folder_hash(dialect), self.template.identity)  # names the templates in use
        self.end_id = self.template.parts.end_id
        self._tokens = self.template.tokens
        self._opened = self._tokens.encode(self.template.parts.reopening)

    @classmethod
    def load(cls, model: str, dialect: str, show_candidates: bool, **settings: Any) -> Prompter:
        """From a student's tokenizer, by the student's name or folder; `settings` as of the constructor."""
        return cls(load_tokenizer(model), dialect, show_candidates, **settings)

    @classmethod
    def of(cls, student: StudentConfig) -> Prompter:
        """The prompts of a run's student. It goes by its name: every machine has a folder of its own."""
        settings = {"template": student.template, "date": student.date, "prefill": student.prefill}
        return cls.load(student.model, student.dialect, student.candidates, **settings)

    def start(self, instruction: str, domain_facts: str = "") -> Conversation:
        """The conversation of a new episode."""
        return Conversation(self, instruction, domain_facts)

    def completion_ids(self, reason: str, action: str) -> list[int]:
        """Tokens of the completion that says this, its end-of-turn token last."""
        text = render(f"{self.dialect}/completion.j2", reason=" ".join(reason.split()), action=action)
        return self.answer_ids(text)

    def answer_ids(self, text: str) -> list[int]:
        """Tokens with which a student says this text, its end-of-turn token last."""
        parts = self.template.parts
        after, opened = parts.trail + parts.end, self._opened
        ids = self._tokens.encode(parts.reopening + parts.lead, text, after)
        if ids[: len(opened)] != opened:  # the prompt's last token would hold the answer's first letters
            ids, opened = self._tokens.encode(parts.lead, text, after), []
        return [*ids[len(opened) : -1], self.end_id]

    def closed(self, completion: tuple[int, ...]) -> tuple[int, ...]:
        """The completion with its end-of-turn token, also where sampling stopped short of it."""
        return completion if completion[-1:] == (self.end_id,) else (*completion, self.end_id)

    def text(self, completion: tuple[int, ...]) -> str:
        """The completion for people and for the parser: without special tokens, but for those around thoughts."""
        ids = list(completion[:-1] if completion[-1:] == (self.end_id,) else completion)
        special = self._tokens.special
        ends = [i + 1 for i, token in enumerate(ids) if token in special]
        cut = next((i for i in reversed(ends) if ends_thoughts(self._tokens.decode(ids[:i], False))), 0)
        return self._tokens.decode(ids[:cut], False) + self._tokens.decode(ids[cut:])

    def view_ids(self, view: View) -> list[int]:
        """Tokens of a prompt that begins with this view."""
        return self.first_ids(self.first_message(view))

    def first_ids(self, message: str) -> list[int]:
        """Tokens of the prompt that begins a conversation with this user message."""
        parts = self.template.parts
        return self._tokens.encode(parts.head, self._stripped(message), parts.opening)

    def turn_ids(self, observation: str, candidates: tuple[str, ...], ended: bool) -> list[int]:
        """Tokens between a completion and the next one, in `chat`; `ended` if the completion holds its end-of-turn token."""
        return self.next_ids(self.turn_message(observation, candidates), ended)

    def next_ids(self, message: str, ended: bool) -> list[int]:
        """Tokens between a completion and the next one, with this user message between them."""
        parts = self.template.parts
        ids = self._tokens.encode(parts.next, self._stripped(message), parts.reopening)
        return ids[ids.index(self.end_id) + ended :]

    def first_message(self, view: View) -> str:
        """Text of the user message that shows this view."""
        values = {f.name: getattr(view, f.name) for f in dataclasses.fields(view)}
        values["candidates"] = view.candidates if self.show_candidates else ()
        return render(f"{self.dialect}/first.j2", **values).strip()

    def turn_message(self, observation: str, candidates: tuple[str, ...]) -> str:
        """Text of a later user message in `chat`."""
        shown = candidates if self.show_candidates else ()
        return render("chat/turn.j2", observation=observation, candidates=shown)

    def _stripped(self, message: str) -> str:
        left, right = self.template.parts.strips
        message = message.lstrip() if left else message
        return message.rstrip() if right else message


class Conversation:
    """The prompt of one episode as it grows: `prompt` before each action, `reply` after it."""

    def __init__(self, prompter: Prompter, instruction: str, domain_facts: str) -> None:
        self.prompter = prompter
        self.instruction = instruction
        self.domain_facts = domain_facts
        self.history: list[tuple[str, str]] = []
        self.ids: list[int] = []  # the last prompt and, after `reply`, its completion
        self._observation = ""
        self._kept = 0

    def prompt(self, observation: str, candidates: tuple[str, ...]) -> list[int]:
        """Token ids of the prompt for this observation."""
        self._observation = observation
        before = self.ids
        if before and self.prompter.dialect == "chat":
            ended = before[-1] == self.prompter.end_id
            self.ids = before + self.prompter.turn_ids(observation, candidates, ended)
        else:
            view = View(self.instruction, tuple(self.history), observation, candidates, self.domain_facts)
            self.ids = self.prompter.view_ids(view)
        self._kept = _common_prefix(before, self.ids)
        return list(self.ids)

    @property
    def delta(self) -> tuple[int, tuple[int, ...]]:
        """The last prompt as `Step` keeps it: how many tokens of what came before it stay, and the tokens that follow."""
        return self._kept, tuple(self.ids[self._kept :])

    def reply(self, completion: tuple[int, ...], action: str) -> None:
        """What the student said to the last prompt, and the action it was read as."""
        self.history.append((self._observation, action))
        self.ids = self.ids + list(completion)


def _common_prefix(before: list[int], after: list[int]) -> int:
    count = 0
    for left, right in zip(before, after):
        if left != right:
            break
        count += 1
    return count


def tokenize(episode: Episode, prompter: Prompter, domain_facts: str = "") -> Episode:
    """A demonstration with the tokens a student would have seen and said: its examples are built like any other's."""
    conversation = prompter.start(episode.instruction, domain_facts)
    steps: list[Step] = []
    for step in episode.steps:
        conversation.prompt(step.observation, step.candidates)
        keep, new = conversation.delta
        completion = tuple(prompter.completion_ids(step.reason, step.action))
        conversation.reply(completion, step.action)
        text = prompter.text(completion)
        steps.append(dataclasses.replace(step, keep=keep, new=new, completion=completion, text=text))
    return dataclasses.replace(episode, steps=tuple(steps), dialect=prompter.dialect, prompt_hash=prompter.hash)
