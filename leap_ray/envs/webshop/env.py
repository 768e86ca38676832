"""The WebShop domain: shopping by instruction, scored by attributes, options, type and price (Yao et al., 2022)."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from leap_ray.envs.base import Expert, PrivilegedState, TextEnv, task_of
from leap_ray.envs.webshop import panels
from leap_ray.envs.webshop.catalogue import GOAL_SEED
from leap_ray.envs.webshop.cut import Cut, shorten, without_instruction
from leap_ray.envs.webshop.data import GENERATED, open_catalogue
from leap_ray.envs.webshop.demonstrations import HumanDemonstrator, read_demonstrations
from leap_ray.envs.webshop.experts import Demonstrator, Teacher
from leap_ray.envs.webshop.privileged import privileged_state
from leap_ray.envs.webshop.reward import NOTHING_BOUGHT
from leap_ray.envs.webshop.session import PER_PAGE, Session
from leap_ray.envs.webshop.words import paraphrases
from leap_ray.envs.webshop.wrapper import DRAWN, KEPT, LIMIT, SEARCH, LeapShop
from leap_ray.errors import PrivilegeError, UserError
from leap_ray.tasks import Panel
from leap_ray.types import digest


class WebShopEnv(TextEnv):
    """A shop with a search bar, pages of results, items with options, and one purchase that ends the episode.

    Settings:

    - `data`: "generated" (a small seeded shop, nothing to download), or the folder (or product file) of WebShop's data
    - `goals`: "synthetic", "human", or a file of goals; `goal_seed` draws prices and bounds (233: LEAP's)
    - `observation`: "text_rich" or "text"; `wrapper`: "leap" (titles as actions, candidate actions) or "plain"
    - `split`: "official" (goals 0–499 test, 500–1499 eval, the rest train), "product_disjoint", or "auto": official for files,
      disjoint for the generated shop
    - `candidates`: past this many, LEAP offers 6 and a random 10, drawn from task, seed and step; null: all
    - `max_observation`, `max_line`: characters; `cut`: "end" or "middle" of what is too long; `show_instruction`: whether pages
      repeat it. `info["observation_cut"]` counts the characters left out
    - `per_page`: products on a page (the original's 10); `products`, `generator_seed`: of the generated shop; `limit`: first
      records of a product file; `nouns`: "auto", "spacy" or "words"; `cache`: folder of built indexes
    - `demonstrations`: WebShop's file of human demonstrations; the demonstrator plays them where a task has one
    """

    domain: ClassVar[str] = "webshop"
    path_settings: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "data": (GENERATED,),
        "goals": ("synthetic", "human"),
        "cache": (),
        "demonstrations": (),
    }
    max_actions = 15  # of a rollout (authors); evaluation: 30, set as eval_max_actions
    threshold = 0.0
    score_scale = 100.0
    domain_facts = (
        "You shop on a web site. search[words] lists products; click[item - title] opens one; on its page click an option to "
        "select it, click[description] or click[features] to read more, click[< prev] to go back, and click[buy now] to buy, "
        "which ends the task. Choose the options that the instruction asks for before buying. Prices cannot be searched for. A "
        "product that fits in part is better than none."
    )

    @classmethod
    def aliases(cls, text: str) -> tuple[str, ...]:
        """How shoppers put an attribute in other words."""
        return paraphrases(text)

    def __init__(
        self,
        data: str = GENERATED,
        *,
        goals: str = "synthetic",
        goal_seed: int = GOAL_SEED,
        observation: Literal["text_rich", "text"] = "text_rich",
        wrapper: Literal["leap", "plain"] = "leap",
        split: Literal["auto", "official", "product_disjoint"] = "auto",
        candidates: int | None = LIMIT,
        max_observation: int | None = None,
        max_line: int | None = None,
        cut: Cut = "end",
        show_instruction: bool = True,
        per_page: int = PER_PAGE,
        products: int = 300,
        generator_seed: int = 0,
        limit: int | None = None,
        nouns: str = "auto",
        cache: str | None = None,
        demonstrations: str | None = None,
    ) -> None:
        super().__init__()
        _known("observation", observation, ("text_rich", "text"))
        _known("wrapper", wrapper, ("leap", "plain"))
        _known("split", split, ("auto", "official", "product_disjoint"))
        _known("cut", cut, ("end", "middle"))
        _check_candidates(candidates)
        for name, value in (("max_observation", max_observation), ("max_line", max_line), ("per_page", per_page)):
            if value is not None and value < 1:
                raise UserError(f"webshop: {name} {value} is below 1")
        self.catalogue = open_catalogue(
            data,
            goals,
            limit=limit,
            goal_seed=goal_seed,
            nouns=nouns,
            cache=cache,
            products=products,
            generator_seed=generator_seed,
        )
        self.split = ("product_disjoint" if data == GENERATED else "official") if split == "auto" else split
        self.source = data if data == GENERATED else str(Path(data).name)
        self.rich, self.leap = observation == "text_rich", wrapper == "leap"
        self.limit, self.per_page = candidates, per_page
        self.cut: Cut = cut
        self.max_observation, self.max_line = max_observation, max_line
        self.show_instruction = show_instruction
        self.demonstrations = read_demonstrations(Path(demonstrations).expanduser()) if demonstrations else {}
        self.session: Session | None = None
        self.steps = 0
        self._seed = 0

    def provenance(self, panel: Panel | None = None) -> dict[str, str]:
        """The products' content."""
        manifest = self.catalogue.manifest
        stamps = sorted(stamp["sha256"] for stamp in manifest["files"])
        return {"products": digest(stamps) if stamps else manifest["name"]}

    def panel(self, name: str) -> Panel:
        """ "train", "eval" or "test" of the split."""
        return panels.panel(self.catalogue, self.domain, name, self.split)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Begin a task at the search page. Raises UserError if the task is of another catalogue."""
        task = task_of(options)
        number = panels.goal_number(self.catalogue, task)
        goal = self.catalogue.goals[number]
        target = self.catalogue.goals.product_at(number)
        self.task, self.steps, self._seed = task, 0, seed or 0
        self.session = Session(self.catalogue, goal, target, str(number), self.per_page)
        observation, info = self._seen(self._text())
        return observation, info

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Do an action. The reward is the purchase's, in 0…1; everything before it is worth 0."""
        session = self._session()
        already = session.bought is not None
        spelling = self.spelling(action)
        if self.leap:
            valid, text = LeapShop(session).visit(action, self.rich)
        else:
            valid = session.act(action)
            text = self._text()
        self.steps += 1
        observation, info = self._seen(text)
        gained = info["score"] if not already else 0.0
        return observation, gained, session.bought is not None, False, info | {"valid": valid, "action": spelling}

    def spelling(self, action: str) -> str:
        """The action as it is offered: in LEAP's wrapper, items by their titles."""
        session = self._session()
        return (LeapShop(session) if self.leap else session).spelling(action)

    def knows(self, action: str) -> bool:
        """Whether the shop would follow it on this page."""
        session = self._session()
        return session.knows(LeapShop(session).plain(action) if self.leap else action)

    def cause(self, action: str) -> str:
        """Clicks on what this page does not show, and what is neither a search nor a click."""
        return "not on this page" if action.startswith("click[") else "no such command"

    def expert(self, kind: str, *, privilege: float = 0.5, seed: int = 0) -> Expert:
        """The demonstrator, or the teacher: 0 plain, 0.5 realizable, 1 names the example product; between, by chance per step."""
        self._session()
        if kind == "demonstrator":
            return HumanDemonstrator(self, self.demonstrations) if self.demonstrations else Demonstrator(self)
        if kind != "teacher":
            raise UserError(f"webshop has no {kind!r} expert: known are demonstrator, teacher")
        if privilege > 0 and self.task is not None and self.task.panel not in self.train_panels:
            raise PrivilegeError(
                f"webshop: a teacher with privilege {privilege} was asked for task {self.task.id!r} of panel "
                f"{self.task.panel!r}; privileged state is served for training panels only"
            )
        return Teacher(self, privilege, random.Random(f"teacher/{seed}/{self._session().name}"))

    def candidates(self) -> tuple[str, ...]:
        """The actions offered in the present state: the same however often they are asked for."""
        session = self._session()
        if self.leap:
            rng = random.Random(f"{self.task.id if self.task else ''}/{self._seed}/{self.steps}")
            return tuple(LeapShop(session).candidates(rng, self.limit))
        found = [SEARCH] if session.has_search_bar else []
        return (*found, *(f"click[{label}]" for label in session.clickables if label != "search"))

    def _privileged(self) -> PrivilegedState:
        session = self._session()
        return privileged_state(self.domain, self.task.id if self.task else "", session)

    def _session(self) -> Session:
        if self.session is None:
            raise UserError("webshop: reset must come before anything else")
        return self.session

    def _text(self) -> str:
        session = self._session()
        return session.text_rich() if self.rich else session.text()

    def _seen(self, text: str) -> tuple[str, dict[str, Any]]:
        session = self._session()
        whole = len(text)
        if not self.show_instruction:
            text = without_instruction(text, session.goal.instruction)
        unsaid = whole - len(text)
        text, left_out = shorten(text, self.max_observation, self.max_line, self.cut)
        bought = session.bought
        info = {
            "instruction": session.goal.instruction,
            "candidates": self.candidates(),
            "score": bought.total if bought else 0.0,
            "success": bought is not None and bought.total == 1.0,
            "score_parts": bought.parts if bought else dict(NOTHING_BOUGHT),
            "observation_cut": unsaid + left_out,
        }
        return text, info


def _known(name: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"webshop: {name} {value!r} is none of {', '.join(known)}")


def _check_candidates(limit: int | None) -> None:
    if limit is not None and limit < KEPT + DRAWN - 1:
        raise UserError(f"webshop: candidates {limit} is below {KEPT + DRAWN - 1}; null offers all")
