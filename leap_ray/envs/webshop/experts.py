"""Experts of the shop: one that shops by what it reads, and a teacher that also knows how a purchase will be judged.

The demonstrator searches in the instruction's words, opens the likeliest product that is affordable, selects what was asked for
and buys; if an item lacks an option it goes back, at most twice. The teacher (LEAP's privileged one, realizable at 0.5) chooses
by the reward that a purchase would get, and argues only with what stands on the page.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import TYPE_CHECKING

from leap_ray.envs.base import Advice
from leap_ray.envs.webshop import reading
from leap_ray.envs.webshop.pages import BACK, BUY, NEXT, PREVIOUS
from leap_ray.envs.webshop.products import Product
from leap_ray.envs.webshop.reading import Request
from leap_ray.envs.webshop.reward import SIMILAR, color_of, ratio, reward
from leap_ray.envs.webshop.search import TOP
from leap_ray.envs.webshop.session import Session
from leap_ray.envs.webshop.wrapper import TITLE, LeapShop

if TYPE_CHECKING:
    from leap_ray.envs.webshop.env import WebShopEnv

HURRY = 7  # actions after which the best at hand is bought
PATIENCE = 10  # actions after which a choice that is not offered is given up
TRIES = 3  # items that the demonstrator opens before it settles
RANK = 0.1  # likeness that a place further down the results costs: the search sees more than titles
NEAR = 0.2  # rewards, or likenesses, closer than this are worth the same
CLEAR = 0.3  # a gain worth another page or search


class Acceptable(frozenset[str]):
    """Actions that are no mistake; on a search page also every search in the instruction's own words."""

    request: Request | None = None

    @classmethod
    def of(cls, actions: Iterable[str], request: Request | None = None) -> Acceptable:
        made = cls(actions)
        made.request = request
        return made

    def __contains__(self, action: object) -> bool:
        if super().__contains__(action):
            return True
        if self.request is None or not isinstance(action, str) or not action.startswith("search["):
            return False
        return self.request.is_sensible(action[len("search[") :].rstrip("]"))


class Demonstrator:
    """Shops by what stands on the page. Its reasons name nothing else."""

    def __init__(self, env: WebShopEnv) -> None:
        self.env = env
        self.session: Session = env._session()
        self.request = Request.read(self.session.goal.instruction)
        self.opened: list[str] = []  # ASINs, in order
        self.given_up: set[str] = set()
        self.searches = 0
        self.steps = 0

    def advise(self) -> Advice | None:
        """The next action of a shopper who knows only what the page says; None once something is bought."""
        self.steps += 1
        session = self.session
        if session.bought is not None:
            return None
        if session.page == "item_page" and session.product.asin not in self.opened:
            self.opened.append(session.product.asin)
        return self._advise_on(session)

    def explain(self, action: str) -> str:
        """A reason for another action that is no mistake here."""
        if action.startswith("search["):
            return "I search for what the instruction asks for, in its own words."
        if action == click(BUY):
            return "The options that can be met here are selected, so I buy this item."
        if action.startswith(TITLE) or self.session.page == "search_results":
            return "This product's title fits the instruction, so I open it."
        return f"The instruction asks for {action[len('click[') : -1]}, so I select it."

    def _advise_on(self, session: Session) -> Advice | None:
        if session.has_search_bar:
            return self._search(self.request.searches[min(self.searches, len(self.request.searches) - 1)])
        if session.page == "search_results":
            return self._results(session)
        if session.page == "item_page":
            return self._item(session)
        return Advice(
            click(PREVIOUS), "I have read this page; I go back to the item to choose its options or leave it."
        )

    def _search(self, text: str) -> Advice:
        self.searches += 1
        reason = f"I search for what the instruction asks for and leave the price out: {text}."
        return Advice(f"search[{text}]", reason, Acceptable.of([f"search[{text}]"], self.request))

    def _results(self, session: Session) -> Advice:
        shown = [p for p in self._shown(session) if p.asin not in self.given_up]
        fitting = [p for p in shown if reading.fits_price(p, self.request)] or shown
        if not fitting:
            return self._elsewhere(session)
        promise = {p.asin: reading.likeness(p, self.request) - RANK * place for place, p in enumerate(shown)}
        best = max(fitting, key=lambda p: promise[p.asin])
        return self._open(best, [p for p in fitting if promise[p.asin] >= promise[best.asin] - NEAR])

    def _open(self, product: Product, others: Iterable[Product]) -> Advice:
        shared = reading.shared_words(product, self.request)
        fits = f"names {', '.join(shared)}" if shared else "is the closest here to what is asked for"
        affordable = self.request.bound is not None and reading.fits_price(product, self.request)
        price = f" and {product.tag} is within the price" if affordable else ""
        reason = f"Of the products shown, this one {fits}{price}, so I open it."
        return Advice(self._opening(product), reason, Acceptable.of(self._opening(p) for p in others))

    def _shown(self, session: Session) -> list[Product]:
        """The products here whose opening is offered: of several with one title, LEAP's action opens only one."""
        shown, offered = reading.shown_products(session), set(self.env.candidates())
        if not self.env.leap:
            return shown
        opened = LeapShop(session).plain
        return [
            p for p in shown if (action := self._opening(p)) in offered and opened(action) == f"click[{p.asin.lower()}]"
        ]

    def _opening(self, product: Product) -> str:
        return f"{TITLE}{product.title.lower()}]" if self.env.leap else f"click[{product.asin.lower()}]"

    def _elsewhere(self, session: Session) -> Advice:
        if len(session.hits) and session.results == 1:
            return Advice(click(NEXT), "No product on this page fits; the next page may show one that does.")
        return Advice(click(BACK), "These results do not fit; I go back to search in other words.")

    def _item(self, session: Session) -> Advice:
        missing = reading.missing_options(session, self.request)
        settled = self.steps >= HURRY or len(self.opened) >= TRIES
        if missing and not settled:
            self.given_up.add(session.product.asin)
            reason = f"This item does not offer {', '.join(missing)}, so I go back to look for one that does."
            return Advice(click(PREVIOUS), reason, Acceptable.of([click(PREVIOUS)]))
        return self._take(session, reading.wanted_labels(session, self.request))

    def _take(self, session: Session, labels: dict[str, str]) -> Advice:
        """Select the labels that are not selected yet, then buy."""
        # A label that two options share selects the last of them; a purchase is judged by labels alone.
        left = {name: label for name, label in labels.items() if label not in session.options.values()}
        if not left:
            return self._buy(session, labels)
        candidates = set(self.env.candidates())
        label = next((label for label in left.values() if click(label) in candidates), None)
        if label is None:
            return self._look_again(session, labels, left.values())
        name = next(name for name, value in left.items() if value == label)
        if self.request.wants(label):
            reason = f"The instruction asks for {label}, and this item offers it as {name}, so I select it."
        else:
            reason = f"Of what this item offers as {name}, {label} is closest to the instruction, so I select it."
        return Advice(click(label), reason, Acceptable.of(map(click, left.values())))

    def _look_again(self, session: Session, labels: dict[str, str], left: Iterable[str]) -> Advice:
        """LEAP's list leaves some labels of a long page out, others each time: come back to it, or in the end buy without."""
        if self.steps >= PATIENCE:
            return self._buy(session, labels)
        reason = "The choice that I want is not among the actions offered now; I read the features, then look again."
        return Advice(click("features"), reason, Acceptable.of(map(click, left)))

    def _buy(self, session: Session, labels: dict[str, str]) -> Advice:
        chosen = session.options.values()
        if reading.missing_options(session, self.request) or any(label not in chosen for label in labels.values()):
            return Advice(
                click(BUY), "This item meets the instruction only in part, but nothing better was found: I buy it."
            )
        reason = "What the instruction asks for is selected" if labels else "Nothing has to be selected here"
        return Advice(click(BUY), f"{reason}, so I buy the item.")


class Teacher(Demonstrator):
    """Chooses by the reward that a purchase would get.

    `privilege` p: below 0.5 each step is informed with chance 2p and plain otherwise; above 0.5 each informed step names the
    example product with chance 2p − 1. At 0.5 every step is informed and none reveals: realizable.
    """

    def __init__(self, env: WebShopEnv, privilege: float, rng: random.Random) -> None:
        super().__init__(env)
        self.informed_share = min(1.0, 2 * privilege)
        self.revealing_share = max(0.0, 2 * privilege - 1)
        self.rng = rng
        self._worth: dict[str, float] = {}

    def _advise_on(self, session: Session) -> Advice | None:
        informed = self.rng.random() < self.informed_share
        reveals = self.rng.random() < self.revealing_share
        if not informed:
            return super()._advise_on(session)
        if reveals and (advice := self._revealed(session)) is not None:
            return advice
        if session.has_search_bar:
            return self._search(self._best_search())
        if session.page == "search_results":
            return self._informed_results(session)
        if session.page == "item_page":
            return self._informed_item(session)
        return super()._advise_on(session)

    def worth(self, product: Product) -> float:
        """The most that buying this product can bring, its options chosen well."""
        if product.asin not in self._worth:
            session = self.session
            number = session.catalogue.find(product.asin)
            assert number is not None
            self._worth[product.asin] = reward(
                product,
                session.catalogue.product(session.target),
                session.goal,
                session.catalogue.price(number),
                self.best_options(product),
                session.catalogue.nouns,
            ).total
        return self._worth[product.asin]

    def best_options(self, product: Product) -> dict[str, str]:
        """option name → label, for the labels that meet an option of the goal; equal labels before alike ones."""
        chosen: dict[str, str] = {}
        for want, value in zip(map(color_of, self.session.goal.option_items), self.session.goal.values):
            alike = [
                (label != value, name, label)
                for name, labels in product.options.items()
                if name not in chosen
                for label in labels
                if label and (label == value or ratio(color_of(label), want) > SIMILAR)
            ]
            meets = [item for item in alike if ratio(color_of(item[2]), want) > SIMILAR] or alike
            if meets:
                _, name, label = min(meets)
                chosen[name] = label
        return chosen

    def _hits(self, search: str) -> list[float]:
        """The worth of a search's products, first to last."""
        return list(map(self._worth_of, self.session.catalogue.index.search(search.lower())))

    def _worth_of(self, number: int) -> float:
        return self.worth(self.session.catalogue.product(number))

    def _best_search(self) -> str:
        """The instruction's own words whose first page holds the best product."""
        return max(self.request.searches, key=lambda text: max(self._hits(text)[: self.session.per_page], default=0.0))

    def _informed_results(self, session: Session) -> Advice:
        shown = self._shown(session)
        best = max(shown, key=self.worth, default=None)
        here = self.worth(best) if best is not None else -1.0
        seen = session.results * session.per_page
        ahead = max(map(self._worth_of, session.hits[seen : seen + TOP]), default=-1.0)
        again = max(max(self._hits(text)[: session.per_page], default=0.0) for text in self.request.searches)
        if self.steps < HURRY and max(ahead, again) > here + CLEAR:
            if ahead >= again and seen < len(session.hits):
                return Advice(
                    click(NEXT), "None of these fits the instruction well enough; the next page may hold a better one."
                )
            return Advice(
                click(BACK), "These results do not fit the instruction well; I search again in its own words."
            )
        if best is None:
            return Advice(click(BACK), "There is nothing here to open; I go back to search again.")
        return self._open(best, [p for p in shown if self.worth(p) >= here - NEAR])

    def _informed_item(self, session: Session) -> Advice:
        product = session.product
        here = self.worth(product)
        again = max(max(self._hits(text)[: session.per_page], default=0.0) for text in self.request.searches)
        start = (session.results - 1) * session.per_page
        others = max(map(self._worth_of, session.hits[max(0, start - TOP) : start + TOP]), default=0.0)
        if self.steps < HURRY and max(again, others) > here + CLEAR:
            missing = reading.missing_options(session, self.request)
            lacks = f"does not offer {', '.join(missing)}" if missing else "does not fit the instruction well enough"
            return Advice(click(PREVIOUS), f"This item {lacks}, so I go back to look for one that does.")
        return self._take(session, self.best_options(product))

    def _revealed(self, session: Session) -> Advice | None:
        """The privileged way, said aloud: straight to the example product. None where that is not the next step."""
        target = session.catalogue.product(session.target)
        if session.has_search_bar and (text := reading.plain_words(target.title)):
            return Advice(
                f"search[{text}]", f"The product that meets all of it is {target.title}, so I search for it by name."
            )
        if session.page == "search_results" and target in self._shown(session):
            return Advice(self._opening(target), f"The product that meets all of it is {target.title}, so I open it.")
        return None


def click(label: str) -> str:
    """The action that clicks a label."""
    return f"click[{label.lower()}]"
