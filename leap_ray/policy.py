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
from dataclasses import dataclass
from typing import Any, Protocol

from leap_ray.errors import UserError
from leap_ray.prompts import folder_hash, render
from leap_ray.types import Completion, Episode, Sampling, Step

MARKERS = {"chat": ("think:", "act:"), "leap": ("REASON:", "ACTION:")}
_MARK = "\u241eMARK\u241e"  # stands for a completion while the chat template is taken apart


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

    The text must begin with the reason's marker, and the action's marker must begin a later line. The action is the rest of
    that line, or, where actions may have several lines, all the rest.
    """
    first, second = map(re.escape, MARKERS[dialect])
    rest = r"(.*)" if multiline else r"([^\n]*)"
    found = re.match(rf"\s*{first}(.*?)\n\s*{second}[ \t]*{rest}", text, re.DOTALL)
    if not found:
        return Parsed("", "")
    reason, action = (part.strip() for part in found.groups())
    return Parsed(reason, action)


class Prompter:
    """Turns views into prompt tokens and completions into actions, for one tokenizer and dialect."""

    def __init__(self, tokenizer: Any, dialect: str = "chat", show_candidates: bool = True) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise UserError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no chat template: an instruct model is needed"
            )
        self.tokenizer = tokenizer
        self.dialect = dialect
        self.show_candidates = show_candidates
        self.end_id = self._next_turn_ids("x")[0]

    @classmethod
    def load(cls, folder: str, dialect: str, show_candidates: bool) -> Prompter:
        """From a model folder's tokenizer."""
        from transformers import AutoTokenizer

        return cls(AutoTokenizer.from_pretrained(folder), dialect, show_candidates)

    @property
    def hash(self) -> str:
        """Names the templates in use."""
        return folder_hash(self.dialect)

    def start(self, instruction: str, domain_facts: str = "") -> Conversation:
        """The conversation of a new episode."""
        return Conversation(self, instruction, domain_facts)

    def completion_ids(self, reason: str, action: str) -> list[int]:
        """Tokens of the completion that says this, its end-of-turn token last."""
        text = render(f"{self.dialect}/completion.j2", reason=" ".join(reason.split()), action=action)
        return [*self._encode(text), self.end_id]

    def closed(self, completion: tuple[int, ...]) -> tuple[int, ...]:
        """The completion with its end-of-turn token, also where sampling stopped short of it."""
        return completion if completion[-1:] == (self.end_id,) else (*completion, self.end_id)

    def text(self, completion: tuple[int, ...]) -> str:
        """The completion for people and for the parser, without special tokens."""
        return self.tokenizer.decode(list(completion), skip_special_tokens=True)

    def view_ids(self, view: View) -> list[int]:
        """Tokens of a prompt that begins with this view."""
        message = {"role": "user", "content": self.first_message(view)}
        text = self.tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
        return self._encode(text)

    def turn_ids(self, observation: str, candidates: tuple[str, ...], ended: bool) -> list[int]:
        """Tokens between a completion and the next one, in `chat`; `ended` if the completion holds its end-of-turn token."""
        shown = candidates if self.show_candidates else ()
        ids = self._next_turn_ids(render("chat/turn.j2", observation=observation, candidates=shown))
        return ids[1:] if ended else ids

    def first_message(self, view: View) -> str:
        """Text of the user message that shows this view."""
        values = {f.name: getattr(view, f.name) for f in dataclasses.fields(view)}
        values["candidates"] = view.candidates if self.show_candidates else ()
        return render(f"{self.dialect}/first.j2", **values).strip()

    def _next_turn_ids(self, content: str) -> list[int]:
        messages = [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": _MARK},
            {"role": "user", "content": content},
        ]
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        _, found, tail = text.partition(_MARK)
        if not found:
            raise UserError(
                f"the chat template of {self.tokenizer.name_or_path!r} does not show assistant turns as they are"
            )
        return self._encode(tail)

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


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
