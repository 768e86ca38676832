"""WebShop's human demonstrations, for the user who has the file (`il_trajs_finalized_images.jsonl`).

Its trajectories belong to goals by their instruction alone. A demonstration is played again in our shop, action by action, so
that it comes out as any other episode: same observations, same candidates, a reason for each step.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leap_ray.envs.base import Advice
from leap_ray.envs.webshop.experts import Demonstrator, click
from leap_ray.envs.webshop.pages import BACK, BUY, NEXT, PREVIOUS
from leap_ray.envs.webshop.products import read_records
from leap_ray.envs.webshop.session import Session, parse_action
from leap_ray.errors import UserError

if TYPE_CHECKING:
    from leap_ray.envs.webshop.env import WebShopEnv

_HEAD = re.compile(r"^\s*(?:amazon shopping game|webshop)\s*instruction:", re.IGNORECASE)
_TAIL = re.compile(r"\[button\] search \[button_\]\s*$", re.IGNORECASE)
_PRICE = ", and price lower than"


@lru_cache(maxsize=4)
def read_demonstrations(path: Path) -> dict[str, tuple[str, ...]]:
    """People's actions by the key of their instruction; of several trajectories for one, the first.

    Raises UserError naming the record that is not of the published form.
    """
    found: dict[str, tuple[str, ...]] = {}
    for number, raw in enumerate(read_records(path)):
        try:
            found.setdefault(instruction_key(raw["states"][0]), _actions(raw))
        except (AttributeError, KeyError, IndexError, TypeError) as error:
            raise UserError(
                f"{path.name}, record {number + 1}: {type(error).__name__}: {error}: not WebShop's human demonstrations"
            ) from None
    return found


def instruction_key(text: str) -> str:
    """An instruction, or the search page that shows it, without case, quotes, price and page."""
    text = _TAIL.sub("", _HEAD.sub("", text)).lower().replace('"', "").replace("'", "")
    return text.split(_PRICE)[0].strip().rstrip(".")


def _actions(raw: dict[str, Any]) -> tuple[str, ...]:
    """The chosen actions: by index among those available, or as written where the index is negative (a search)."""
    chosen = zip(raw["actions"], raw["action_idxs"], raw["available_actions"], strict=False)
    actions = tuple(written if index < 0 else available[index] for written, index, available in chosen)
    if not all(isinstance(action, str) for action in actions):
        raise TypeError("an action is not text")
    return actions


class HumanDemonstrator(Demonstrator):
    """Plays a person's actions again; where none is recorded, or one cannot be done here, it goes on as the demonstrator."""

    def __init__(self, env: WebShopEnv, demonstrations: dict[str, tuple[str, ...]]) -> None:
        super().__init__(env)
        self.left = list(demonstrations.get(instruction_key(self.session.goal.instruction), ()))

    def advise(self) -> Advice | None:
        advice = super().advise()
        if advice is None or not self.left:
            return advice
        action = self.left.pop(0)
        if not _possible(action, self.session, self.env):
            self.left.clear()
            return advice
        return Advice(action, self.explain(action), frozenset((action,)))

    def explain(self, action: str) -> str:
        moves = {
            click(BACK): "These results do not fit; I go back to search in other words.",
            click(NEXT): "The next page may show a product that fits better.",
            click(PREVIOUS): "I have seen enough here, so I go back.",
            click(BUY): "This item fits what the instruction asks for, so I buy it.",
            "click[description]": "I read the description to see whether the item fits.",
            "click[features]": "I read the features to see whether the item fits.",
            "click[reviews]": "I look at the reviews before I decide.",
        }
        return moves.get(action) or super().explain(action)


def _possible(action: str, session: Session, env: WebShopEnv) -> bool:
    verb, argument = parse_action(action)
    if verb == "search":
        return session.has_search_bar and bool(argument)
    return action in env.candidates() or (verb == "click" and argument in session.clickables)
