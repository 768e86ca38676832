"""Panels: named, sorted, hashed lists of tasks. An evaluation on the same panel hash is the same evaluation anywhere."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from leap_ray.errors import UserError
from leap_ray.types import Task, digest


@dataclass(frozen=True)
class Panel:
    """Tasks of one domain, sorted by id, each once. `hash` names exactly this list."""

    domain: str
    name: str
    tasks: tuple[Task, ...]

    @classmethod
    def of(cls, domain: str, name: str, tasks: Iterable[Task]) -> Panel:
        """Sort the tasks and refuse a repeated id."""
        ordered = tuple(sorted(tasks, key=lambda task: task.id))
        for before, after in itertools.pairwise(ordered):
            if before.id == after.id:
                raise UserError(f"panel {domain}/{name} holds task {after.id!r} twice")
        return cls(domain, name, ordered)

    @property
    def hash(self) -> str:
        return digest(self.domain, [task.id for task in self.tasks])

    def __len__(self) -> int:
        return len(self.tasks)

    def task(self, task_id: str) -> Task:
        """The task of that id. Raises UserError if the panel does not hold it."""
        return self.choose([task_id]).tasks[0]

    def choose(self, ids: Sequence[str]) -> Panel:
        """The part of the panel with these ids; any id not in it is an error."""
        known = {task.id: task for task in self.tasks}
        for task_id in ids:
            if task_id not in known:
                raise UserError(
                    f"task {task_id!r} is not in panel {self.domain}/{self.name} ({len(self)} tasks, {self.hash})"
                )
        return Panel.of(self.domain, self.name, [known[i] for i in ids])

    def sample(self, count: int | None, seed: int) -> Panel:
        """`count` tasks drawn with `seed`, spread over task kinds as evenly as they allow; all of them if None."""
        if count is None or count == len(self):
            return self
        if count > len(self):
            raise UserError(f"panel {self.domain}/{self.name} has {len(self)} tasks; {count} were asked for")
        rng = random.Random(f"{seed}/{self.hash}")
        queues: dict[str, list[Task]] = {}
        for task in self.tasks:
            queues.setdefault(task.kind, []).append(task)
        for queue in queues.values():
            rng.shuffle(queue)
        chosen: list[Task] = []
        while len(chosen) < count:
            for kind in sorted(queues):
                if queues[kind] and len(chosen) < count:
                    chosen.append(queues[kind].pop())
        return Panel.of(self.domain, self.name, chosen)

    def save(self, path: Path) -> None:
        """Write the panel file: ids, kinds and the hash."""
        body = {
            "domain": self.domain,
            "name": self.name,
            "hash": self.hash,
            "tasks": [{"id": t.id, "kind": t.kind} for t in self.tasks],
        }
        path.write_text(json.dumps(body, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Panel:
        """Read a panel file; a hash that does not fit its ids is an error."""
        try:
            body = json.loads(path.read_text())
            tasks = [Task(body["domain"], t["id"], body["name"], t["kind"]) for t in body["tasks"]]
            panel = cls.of(body["domain"], body["name"], tasks)
            written = body["hash"]
        except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise UserError(f"panel file {path} cannot be read: {error!r}") from None
        if panel.hash != written:
            raise UserError(f"panel file {path} was changed: its ids hash to {panel.hash}, the file says {written}")
        return panel
