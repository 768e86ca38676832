"""LEAP's way of showing the shop: product titles as actions, and a list of candidate actions.

LEAP's own environment also visits an opened item's description and features, unseen. That changes nothing but, after a click that
came to nothing, the page one is on, behind the student's back; so it is left out.
"""

from __future__ import annotations

import random

from leap_ray.envs.webshop.products import ASIN_LENGTH
from leap_ray.envs.webshop.session import Session

SEARCH = "search[<search query>]"
FINISH = "finish"  # the only candidate where nothing can be done
TITLE = "click[item - "
LIMIT, KEPT, DRAWN = 20, 6, 10  # past 20 candidates: the first 6 and a random 10 of the others


class LeapShop:
    """A session as LEAP's environment presents it."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def candidates(self, rng: random.Random, limit: int | None = LIMIT) -> list[str]:
        """The actions offered here. The draw past `limit` is repeated each time the list is too long again, as in LEAP.

        `limit` None offers everything.
        """
        if self.session.has_search_bar:
            return [SEARCH]
        offered: list[str] = []
        for label in self.session.clickables:
            if label == "search":
                continue
            offered.append(self.title_action(label))
            if limit is not None and len(offered) > limit:
                offered = offered[:KEPT] + rng.sample(offered[KEPT:], DRAWN)
        return offered or [FINISH]

    def title_action(self, label: str) -> str:
        """The action that clicks this label; a label that is a product's lower-case ASIN, even an option's, shows as title."""
        number = self._product(label)
        return (
            f"click[{label}]" if number is None else f"{TITLE}{self.session.catalogue.product(number).title.lower()}]"
        )

    def visit(self, action: str, rich: bool = True) -> tuple[bool, str]:
        """(whether the action was one here, the observation that follows it). An action that is none changes nothing."""
        done = self.session.act(self.plain(action))
        return done, self.session.text_rich() if rich else self.session.text()

    def spelling(self, action: str) -> str:
        """An action as it is offered: an item by its title, unless that title opens another one."""
        read = self.session.spelling(self.plain(action))
        offered = self.title_action(read[len("click[") : -1]) if read.startswith("click[") else read
        return offered if self.plain(offered) == read else read

    def _product(self, label: str) -> int | None:
        """The number of the product whose lower-case ASIN this is."""
        if not 0 < len(label) <= ASIN_LENGTH or not label.isascii() or label != label.lower():
            return None
        return self.session.catalogue.find(label.upper())

    def plain(self, action: str) -> str:
        """The original shop's action: a product's title becomes its ASIN.

        Of several products with that title it is the last in the shop, as in LEAP, or else the last that can be clicked here.
        """
        if not action.startswith(TITLE):
            return action
        title, catalogue = action[len(TITLE) : -1], self.session.catalogue
        number = catalogue.by_title(title)
        if number is None:
            return action
        label = catalogue.product(number).asin.lower()
        if label not in self.session.clickables:
            label = next((here for here in reversed(self.session.clickables) if self._titled(here, title)), label)
        return f"click[{label}]"

    def _titled(self, label: str, title: str) -> bool:
        number = self._product(label)
        return number is not None and self.session.catalogue.product(number).title.lower() == title
