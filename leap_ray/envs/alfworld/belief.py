"""What a student can know: a household pieced together from the observations of an episode, and nothing else.

General knowledge (which things fit where, where they are usually kept) comes from the training inventories. What the task says
and what the game offers count for more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from leap_ray.envs.alfworld import inventories
from leap_ray.envs.alfworld.world import Goal, World, kind_of, number_of

ARTICLE = r"an? ([a-z]+ \d+)"
ROOM = re.compile(r"Looking quickly around you, you see (.*?)\.(?:\n|$)")
CONTENTS = re.compile(r"(?:On the ([a-z]+ \d+)|The ([a-z]+ \d+) is open\. In it), you see (.*?)\.(?:\n|$)")
SHUT = re.compile(r"The ([a-z]+ \d+) is closed\.")
DONE = (
    (re.compile(r"You arrive at ([a-z]+ \d+)\."), "go to {0}"),
    (re.compile(r"You open the ([a-z]+ \d+)\."), "open {0}"),
    (re.compile(r"You close the ([a-z]+ \d+)\."), "close {0}"),
    (re.compile(r"You pick up the ([a-z]+ \d+) from the ([a-z]+ \d+)\."), "take {0} from {1}"),
    (re.compile(r"You move the ([a-z]+ \d+) to the ([a-z]+ \d+)\."), "move {0} to {1}"),
    (re.compile(r"You (clean|heat|cool) the ([a-z]+ \d+) using the ([a-z]+ \d+)\."), "{0} {1} with {2}"),
    (re.compile(r"You turn on the ([a-z]+ \d+)\."), "use {0}"),
)
FAR_FETCHED = 0.05  # of the best place's odds: below that, looking there first is a mistake
FOREVER = 10**6


def action_told(observation: str) -> str | None:
    """The action that an observation says was done; None if it tells of none that changes anything."""
    for pattern, action in DONE:
        if done := pattern.search(observation):
            return action.format(*done.groups())
    return None


class Belief(World):
    """A World that grows with what is observed."""

    def __init__(self, goal: Goal | None = None) -> None:
        super().__init__()
        self.accepts = _accepted()
        if goal and goal.parent:
            self.accepts.add((goal.parent, goal.thing))  # where the task wants it, it fits
        self.denied: set[tuple[str, str]] = set()  # (place type, thing type) that the game did not offer
        self.known: set[str] = set()  # places whose contents were seen
        self.visits: dict[str, int] = {}  # place → time of the last visit, counted in observations
        self.refused = False  # the last action was none the game knew
        self.last: str | None = None  # the place last looked at, closed ones included
        self.time = 0

    def see(self, observation: str, candidates: Iterable[str] = ()) -> None:
        """Take in one observation; the candidate actions tell which places are within reach."""
        self.time += 1
        candidates = tuple(candidates)
        self.refused = observation.strip() == "Nothing happens."
        if room := ROOM.search(observation):
            for place in re.findall(ARTICLE, room[1]):
                self.spots.setdefault(place, place)
        if action := action_told(observation):
            self._did(action)
        self._reach(candidates)
        for on, within, things in CONTENTS.findall(observation):
            self._look_into(on or within, re.findall(ARTICLE, things), openable=bool(within))
        for place in SHUT.findall(observation):
            self.closed.add(place)
            self.openable.add(place)
            self._look_at(place)
        if self.holds:
            self._learn_what_fits(self.holds, set(candidates))

    def _learn_what_fits(self, held: str, candidates: set[str]) -> None:
        """Whether the open places within reach can hold the thing in hand, as the candidates tell.

        Where no place is known that can, every one may, until it was tried: the tables know the training games only.
        """
        thing = kind_of(held)
        for place in self.here():
            pair = (kind_of(place), thing)
            if f"move {held} to {place}" in candidates:
                self.accepts.add(pair)
            elif f"examine {place}" in candidates and place not in self.closed:
                self.accepts.discard(pair)
                self.denied.add(pair)
        if not any(self.takes(place, held) for place in self.spots):
            self.accepts |= {(kind_of(place), thing) for place in self.spots} - self.denied

    def _did(self, action: str) -> None:
        if action.startswith("go to "):
            self.spots.setdefault(action[6:], action[6:])
        self.apply(action)

    def _reach(self, candidates: Iterable[str]) -> None:
        """Places that can be examined now are within reach of each other; those that can be opened are closed."""
        for verb, _, name in (c.partition(" ") for c in candidates):
            if name in self.spots and verb in ("examine", "open", "close"):
                self.spots[name] = self.at or name
                if verb == "open":
                    self.closed.add(name)
                    self.openable.add(name)

    def _look_into(self, place: str, things: list[str], *, openable: bool) -> None:
        self.closed.discard(place)
        if openable:
            self.openable.add(place)
        self.known.add(place)
        for places in self.inside.values():
            places.discard(place)
        for thing in things:
            self.inside.setdefault(thing, set()).add(place)
        self._look_at(place)

    def _look_at(self, place: str) -> None:
        self.visits[place] = self.time
        self.last = place

    def odds(self, thing: str, place: str) -> float:
        """How many of such things such a place holds on average, in the training inventories."""
        return inventories.load().odds.get(thing, {}).get(kind_of(place), 0.0)

    def unseen(self) -> list[str]:
        """Places whose contents were not seen yet."""
        return [p for p in self.spots if p not in self.known]

    def plausible(self, thing: str) -> list[str]:
        """Unseen places where one may look for such a thing: those not far less likely than the best one left."""
        odds = {p: self.odds(thing, p) for p in self.unseen()}
        best = max(odds.values(), default=0.0)
        return [p for p in odds if odds[p] >= FAR_FETCHED * best]

    def effort(self, place: str) -> int:
        """Actions until the contents are seen."""
        there = self.spots[place] == self.at
        if there or place in self.visits:
            return (not there) + (place in self.closed) or 1
        return 1 + (inventories.load().openable_kinds.get(kind_of(place), 0.0) > 0.5)

    def best_guess(self, thing: str) -> str | None:
        """The place to look in next: most things per action; after all were seen, the one not looked at for longest."""
        if places := self.plausible(thing):
            return min(places, key=lambda p: (-self.odds(thing, p) / self.effort(p), self.effort(p), number_of(p), p))
        return min(self.spots, key=lambda p: (self.visits.get(p, -FOREVER), p), default=None)


def _accepted() -> set[tuple[str, str]]:
    tables = inventories.load().accepts
    return {(place.lower(), thing.lower()) for place, things in tables.items() for thing in things}
