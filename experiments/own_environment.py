"""Your own environment is one class. Here: a coin lies in one of six lockers.  leap-ray run experiments/own_environment.yaml"""

import zlib

from leap_ray.envs.base import Advice, PrivilegedState, TextEnv, task_of
from leap_ray.tasks import Panel
from leap_ray.types import Task


class Lockers(TextEnv):
    domain = "lockers"
    domain_facts = "Things are kept in lockers. Open lockers until you see what you want, then take it."
    max_actions = 8

    def panel(self, name):
        return Panel.of(self.domain, name, [Task(self.domain, f"{name}/{i:03}", name) for i in range(60)])

    def reset(self, *, seed=None, options=None):
        self.task, self.opened, self.won = task_of(options), [], False
        self.place = zlib.crc32(self.task.id.encode()) % 6
        return "You see six closed lockers, 0 to 5.", self.info()

    def step(self, action):
        if valid := action in self.info()["candidates"]:
            self.won = action == "take coin"
            self.opened += [] if self.won else [int(action[-1])]
        seen = "a coin" if self.place in self.opened else "no coin"
        return f"You see {seen}.", float(self.won), self.won, False, {**self.info(), "valid": valid}

    def info(self):
        actions = [f"open locker {i}" for i in range(6) if i not in self.opened]
        actions = ["take coin"] if self.place in self.opened else actions
        score = {"score": float(self.won), "success": self.won}
        return {"instruction": "Get the coin.", "candidates": (*actions,), **score}

    def _privileged(self):  # what a prompted teacher may know
        return PrivilegedState(self.domain, self.task.id, f"It is in locker {self.place}.", (f"locker {self.place}",))

    def expert(self, kind, *, privilege=0.5, seed=0):  # who demonstrates, and corrects as the symbolic teacher
        return self

    def advise(self):
        actions = self.info()["candidates"]
        return Advice(actions[0], "That is where it may be.", frozenset(actions))
