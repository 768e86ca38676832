"""An environment that stands on faulty machines: what goes wrong depends on the task, and on how often it was tried."""

import os
from pathlib import Path

from experiments.own_environment import Lockers
from leap_ray.errors import EnvironmentFault, UserError


class Faulty(Lockers):
    """Counts its resets in one file a task, below `folder`."""

    def __init__(self, folder):
        super().__init__()
        self.folder = Path(folder)

    def reset(self, *, seed=None, options=None):
        kind = options["task"].id.rpartition("/")[2]
        with open(self.folder / kind, "a") as file:
            file.write("x")
        tries = (self.folder / kind).stat().st_size
        if kind == "000" and tries < 3:
            raise EnvironmentFault("the sandbox was killed")
        if kind == "001":
            raise ZeroDivisionError("a bug")
        if kind == "002" and tries < 2:
            os._exit(1)
        if kind == "003":
            raise UserError("no such shop")
        return super().reset(seed=seed, options=options)
