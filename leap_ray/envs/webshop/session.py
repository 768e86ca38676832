"""One shopper's session: WebShop's own rules from click to page, quirks included.

Search works on any page; an unknown action does nothing; "back to search" forgets options and visited items; going back to the
results forgets options; "next >" never ends; which page one is on is read from the address, as the original does.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property

from leap_ray.envs.webshop import pages
from leap_ray.envs.webshop.catalogue import Catalogue
from leap_ray.envs.webshop.goals import Goal
from leap_ray.envs.webshop.pages import Click, Part, Piece
from leap_ray.envs.webshop.products import CONTROL, Product
from leap_ray.envs.webshop.reward import Reward, reward

BASE_URL = "http://127.0.0.1:3000"
PER_PAGE = 10  # products on a page of results
MAX_ACTION = 4_000  # characters; a longer action is not an action
_PAGES = ("search_results", "item_page", "item_sub_page", "done")


class Session:
    """A shopper in a shop with one goal. `act` changes the page; the page is put into words when asked for."""

    def __init__(self, catalogue: Catalogue, goal: Goal, number: int, name: str, per_page: int = PER_PAGE) -> None:
        self.catalogue = catalogue
        self.goal = goal
        self.target = number  # the goal's own product
        self.name = name
        self.per_page = per_page
        self.bought: Reward | None = None
        self._to_search()

    def act(self, action: str) -> bool:
        """Do an action; False if it was none here, and nothing has changed."""
        if not self.knows(action):
            return False
        verb, argument = self._read(action)
        if verb == "search":
            self._search(argument.split(" "))
        else:
            self._click(argument, self.clickables[argument])
        return True

    def knows(self, action: str) -> bool:
        """Whether `act` would do it. Nothing changes."""
        verb, argument = self._read(action)
        if self.bought is not None or not argument or not is_plain(action):
            return False
        if verb == "search":
            first, *rest = argument.split(" ")
            return first not in ("<r>", "<a>") and (first not in ("<c>", "<q>") or bool(rest))
        return verb == "click" and argument != "search" and argument in self.clickables

    def spelling(self, action: str) -> str:
        """The action as the session reads it: without what stands after it, in lower case."""
        verb, argument = self._read(action)
        return f"{verb}[{argument}]" if verb in ("search", "click") and argument else action

    def _read(self, action: str) -> tuple[str, str]:
        """(verb, argument in lower case). A label that can be clicked here may hold brackets; the original cannot read those."""
        verb, _, rest = action.partition("[")
        if verb == "click" and rest.endswith("]") and (label := rest[:-1].lower()) in self.clickables:
            return verb, label
        verb, argument = parse_action(action)
        return verb, argument.lower()

    # ── what is seen ──

    @cached_property
    def pieces(self) -> list[Piece]:
        """The present page."""
        said = self.goal.instruction
        if self.page == "search_results":
            start = (self.results - 1) * self.per_page
            shown = self.hits[start : self.results * self.per_page]
            return pages.results_page(said, self.results, len(self.hits), [self.catalogue.product(n) for n in shown])
        if self.page == "item_page":
            return pages.item_page(said, self.product)
        if self.page == "item_sub_page":
            return pages.sub_page(said, self.product, self.sub)
        if self.page == "done" and self.bought is not None:
            return pages.done_page(self.product.asin, self.options, self.bought.total)
        return pages.search_page(said)

    @cached_property
    def clickables(self) -> dict[str, Click]:
        return pages.clickables(self.pieces)

    @property
    def has_search_bar(self) -> bool:
        return self.page == ""

    def text(self) -> str:
        return pages.plain_text(self.pieces)

    def text_rich(self) -> str:
        return pages.rich_text(self.pieces, self.url, self.visited)

    @property
    def product(self) -> Product:
        """The product that was opened last."""
        assert self.item is not None
        return self.catalogue.product(self.item)

    # ── what happens ──

    def _to_search(self) -> None:
        self.keywords: list[str] = []
        self.hits: Sequence[int] = ()
        self.results = 1  # page of the results
        self.item: int | None = None
        self.sub = ""
        self.options: dict[str, str] = {}
        self.visited: set[str] = set()
        self._show("", f"{BASE_URL}/{self.name}")

    def _show(self, page: str, url: str) -> None:
        self.page, self.url = page, url
        for cached in ("pieces", "clickables"):
            self.__dict__.pop(cached, None)

    def _search(self, keywords: list[str]) -> None:
        self.keywords, self.hits = keywords, self._find(keywords)
        self._to_results(1)

    def _find(self, keywords: list[str]) -> Sequence[int]:
        """Numbers of the products found. `<c>` and `<q>` list a category's or a query's products, as in the original."""
        first, rest = keywords[0], keywords[1:]
        if first == "<c>":
            return self.catalogue.by_category(rest[0].strip())
        if first == "<q>":
            return self.catalogue.by_query(" ".join(rest).strip())
        return self.catalogue.index.search(" ".join(keywords))

    def _to_results(self, page: int) -> None:
        self.results, self.item, self.options = page, None, {}
        self._show("search_results", f"{BASE_URL}/search_results/{self.name}/{'+'.join(self.keywords)}/{page}")

    def _to_item(self) -> None:
        where = f"{self.product.asin}/{'+'.join(self.keywords)}/{self.results}"
        self._show("item_page", f"{BASE_URL}/item_page/{self.name}/{where}/{json.dumps(self.options)}")

    def _click(self, label: str, click: Click) -> None:
        here = next((page for page in _PAGES if page in self.url), "")
        if label == pages.BUY.lower():
            self._buy()
        elif label == pages.BACK.lower():
            self._to_search()
        elif label == pages.NEXT.lower() and here == "search_results":
            self._to_results(self.results + 1)
        elif label == pages.PREVIOUS.lower() and here == "search_results":
            self._to_results(self.results - 1)
        elif label == pages.PREVIOUS.lower() and here == "item_page":
            self._to_results(self.results)
        elif label in _SUB_PAGES:
            self._open_sub_page(_SUB_PAGES[label])
        else:
            self._open(label, click)

    def _open_sub_page(self, name: str) -> None:
        self.sub = name
        where = f"{self.product.asin}/{'+'.join(self.keywords)}/{self.results}"
        self._show("item_sub_page", f"{BASE_URL}/item_sub_page/{self.name}/{where}/{name}/{self.options}")

    def _open(self, label: str, click: Click) -> None:
        if click.part is Part.PRODUCT:
            self.item = self.catalogue.find(label.upper())
            self.visited.add(label.upper())
        elif click.part is Part.OPTION:
            self.options[click.option.lower()] = label
        self._to_item()

    def _buy(self) -> None:
        assert self.item is not None
        wanted = self.catalogue.product(self.target)
        price = self.catalogue.price(self.item)
        self.bought = reward(self.product, wanted, self.goal, price, self.options, self.catalogue.nouns)
        self._show("done", f"{BASE_URL}/done/{self.name}/{self.product.asin}/{self.options}")


_SUB_PAGES = {name.lower(): name for name in (*pages.SUB_PAGES, "Attributes")}


def parse_action(action: str) -> tuple[str, str]:
    """`click[buy now]` as ("click", "buy now"): the last bracket pair of the first line. ("", "") if there is none.

    The same parts as the original's pattern finds, in time linear in the length.
    """
    line = action[:MAX_ACTION].split("\n", 1)[0]
    close = line.rfind("]")
    begin = line.rfind("[", 1, close - 1) if close >= 3 else -1
    return (line[:begin], line[begin + 1 : close]) if begin > 0 else ("", "")


def is_plain(action: str) -> bool:
    """Whether the action is of bearable length and free of control characters."""
    return len(action) <= MAX_ACTION and CONTROL.search(action) is None
