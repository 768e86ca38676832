"""Experts for InterCode: one that knows the gold command, one that knows only common idioms.

The first makes demonstrations and corrections on training tasks. Its actions come from the gold command, whole or up to the next
part worth looking at; its reasons are made from the task's words and from what the student has seen, and never name the command
(privilege 1 drops that rule: the far end of the realizability trade-off). The second has no privileged state.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from leap_ray.envs.base import Advice, Expert
from leap_ray.envs.intercode.data import Item, Language
from leap_ray.envs.intercode.games import SUBMIT, BashGame, Game, PythonGame, SqlGame
from leap_ray.envs.intercode.idioms import bash_idiom, sql_idiom
from leap_ray.envs.intercode.python_tasks import function_name
from leap_ray.envs.intercode.spelling import Alike
from leap_ray.errors import UserError

PERFECT = 1.0 - 1e-9
REVEALS_FROM = 1.0  # privilege from which reasons may name the gold command
# Commands that change something, or draw on their input twice: no pipeline that holds one is shown in parts.
CHANGES = re.compile(
    r"\b(tee|rm|rmdir|mv|cp|ln|mkdir|touch|chmod|tar|gzip|gunzip|zip|dd|sed -i|xargs|exec|delete|cpio|split|yes)\b|[>&;]|<\("
)
PARTS_FROM = 3  # stages of a pipeline from which it is shown in parts

INTENTS = (  # words of a task -> what to do about it, in general
    (r"\bsubmit", "This is what the task asks for, so I hand it in."),
    (r"\b(how many|count|number of|total)\b", "The task asks for a number: select exactly the things meant, then count them."),
    (r"\b(delete|remove|erase)\b", "Something is to be removed: select exactly those things, then delete them."),
    (r"\b(copy|move|rename)\b", "Things are to be moved or copied: name the sources precisely and give the target in full."),
    (r"\b(archive|compress|zip|tar)\b", "An archive is asked for: choose the files, then pack them under the wanted name."),
    (r"\b(create|make|touch|link)\b", "Something new is to be made: use the exact name and place that the task gives."),
    (r"\b(md5|checksum|hash)", "Hashes are asked for: hash the chosen files in a fixed order, so the result is stable."),
    (r"\b(sort|order|largest|smallest|most|least|highest|lowest)", "Order matters: compute, sort, keep the end meant."),
    (r"\b(average|mean|sum|maximum|minimum)\b", "A figure over several values is asked for: pick them, then aggregate."),
    (r"\b(contain|match|search|find|list|display|show|print|which|what)", "Select by all conditions, print just what is asked."),
)  # fmt: skip
TROUBLES = (  # what an output says -> how to go on from there
    (
        r"^Malformed command",
        "My quotes did not close or the output was no text, so I write the command anew with care.",
    ),
    (
        r"^Command (timed out|stopped)",
        "That took more than is allowed, so I narrow the command down to the place that matters.",
    ),
    (
        r"syntax error|unexpected|Error executing query|Error: ",
        "That failed on its wording, so I look at its form again.",
    ),
    (
        r"No such file|cannot access|not found|doesn't exist",
        "Something I named is not there, so I go by the task's own names.",
    ),
)
DEFAULT_REASON = "I turn the task's words into one precise command and look at what it gives."


def expert(kind: str, item: Item, game: Game, *, privilege: float, knows_gold: bool) -> Expert:
    """The expert of a kind for the game's present episode. `knows_gold`: whether this task's privileged state may be used."""
    if kind not in ("demonstrator", "teacher"):
        raise UserError(f"intercode has no {kind!r} expert: there are demonstrator and teacher")
    if not knows_gold or (kind == "teacher" and privilege <= 0):
        return PlainExpert(item, game)
    return GoldExpert(item, game, reveals=kind == "teacher" and privilege >= REVEALS_FROM)


class GoldExpert:
    """Leads to the gold command from wherever the student is, and submits once the answer stands."""

    def __init__(self, item: Item, game: Game, reveals: bool = False) -> None:
        self.item, self.game, self.reveals = item, game, reveals
        plans: dict[type, Callable[[Item], list[str]]] = {
            BashGame: bash_plan,
            SqlGame: sql_plan,
            PythonGame: python_plan,
        }
        self.plan = plans[type(game)](item)

    def advise(self) -> Advice | None:
        if self.game.actions and self.game.standing() >= PERFECT:
            return self._advice(self._submission(), INTENTS[0][1])
        language = language_of(self.game)
        done = Alike.of(self.game.actions, language)
        gold = self.plan[-1]
        if gold in Alike.of(self.game.actions[-1:], language):  # the last word already: there is nothing better
            return self._advice(self._submission(), INTENTS[0][1])
        left = [part for part in self.plan[:-1] if part not in done]
        action = left[0] if left and gold not in done else gold
        reason = looking(action) or intent(self.item.query)
        return self._advice(action, f"{trouble(self.game.answer) if done else ''}{reason}")

    def _submission(self) -> str:
        return f"{SUBMIT} {function_name(self.item)}" if isinstance(self.game, PythonGame) else SUBMIT

    def _advice(self, action: str, reason: str) -> Advice:
        if self.reveals:
            reason = f"The solution is known to be {self.item.gold!r}, so the right action now is {action!r}."
        acceptable = {action}
        if not action.startswith(SUBMIT):  # a step ahead of the plan is no mistake
            acceptable |= set(self.plan)
        return Advice(action, reason, Alike.of(acceptable, language_of(self.game)))


def language_of(game: Game) -> Language:
    """The language of the game's actions."""
    return "sql" if isinstance(game, SqlGame) else "python" if isinstance(game, PythonGame) else "bash"


def bash_plan(item: Item) -> list[str]:
    """The gold command, after the parts of it that are worth a look on the way."""
    stages = pipeline(item.gold)
    if len(stages) < PARTS_FROM or CHANGES.search(item.gold):
        return [item.gold.strip()]
    return [" | ".join(stages[:-1]), item.gold.strip()]


def sql_plan(item: Item) -> list[str]:
    """The tables, the columns of those that the statement reads, the statement."""
    used = [table for table in item.tables if re.search(rf"\b{re.escape(table)}\b", item.gold, re.IGNORECASE)]
    return ["SHOW TABLES", *(f"DESC {table}" for table in used[:3]), item.gold.strip()]


def python_plan(item: Item) -> list[str]:
    """The whole solution at once."""
    return [item.gold.replace("\r\n", "\n").strip()]


def pipeline(command: str) -> list[str]:
    """The stages of a pipeline, split at bars outside quotes and brackets; the whole command if it is none."""
    stages, start, quote, depth, i = [], 0, "", 0, 0
    while i < len(command):
        char = command[i]
        if char == "\\" and quote != "'":
            i += 1
        elif quote:
            quote = "" if char == quote else quote
        elif char in "'\"`":
            quote = char
        elif char in "({[":
            depth += 1
        elif char in ")}]":
            depth -= 1
        elif char == "|" and depth == 0:
            if command[i + 1 : i + 2] == "|":
                return [command.strip()]
            stages.append(command[start:i].strip())
            start = i + 1
        i += 1
    return [*stages, command[start:].strip()]


def intent(query: str) -> str:
    """A general principle for a task, from the task's own words."""
    for pattern, reason in INTENTS[1:]:
        if re.search(pattern, query, re.IGNORECASE):
            return reason
    return DEFAULT_REASON


def trouble(output: str) -> str:
    """What to make of a last output that reports a failure, '' for one that does not."""
    for pattern, reason in TROUBLES:
        if re.search(pattern, output[:2000]):
            return f"{reason} "
    return ""


def looking(action: str) -> str:
    """The reason for a first look, '' for any other action."""
    if action == "SHOW TABLES":
        return "I do not know this database yet: its tables come first."
    if action.startswith("DESC "):
        return "Before I write the query I need to know the columns of the tables at hand."
    return ""


class PlainExpert:
    """Knows only common idioms and the task's words: the reference without privileged state."""

    def __init__(self, item: Item, game: Game) -> None:
        self.item, self.game = item, game

    def advise(self) -> Advice | None:
        language = language_of(self.game)
        done = Alike.of(self.game.actions, language)
        plan = self._plan()
        left = [action for action in plan if action not in done]
        if not plan:
            return None
        if not left:
            return Advice(SUBMIT, "I have done what I know to do: this is my answer.", frozenset({SUBMIT}))
        return Advice(left[0], looking(left[0]) or intent(self.item.query), Alike.of(left, language))

    def _plan(self) -> list[str]:
        if isinstance(self.game, BashGame):
            return [bash_idiom(self.item.query)]
        if isinstance(self.game, SqlGame):
            tables = sorted(self.item.tables)
            return ["SHOW TABLES", *sql_idiom(self.item.query, tables)]
        return []
