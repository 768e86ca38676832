"""Which goals are trained on and which are judged by: the official split, and one that shares no product."""

from __future__ import annotations

from leap_ray.envs.webshop.catalogue import Catalogue
from leap_ray.errors import UserError
from leap_ray.tasks import Panel
from leap_ray.types import Task, digest

PANELS = ("train", "eval", "test")
TEST_END, EVAL_END = 500, 1500  # goal indices of the official split
TEST_SHARE, EVAL_SHARE = 0.15, 0.15  # of the products, in the product-disjoint split


def panel(catalogue: Catalogue, domain: str, name: str, split: str) -> Panel:
    """The named panel. Raises UserError naming the panels there are, or if the panel is empty."""
    if name not in PANELS:
        raise UserError(f"webshop has no panel {name!r}: known are {', '.join(PANELS)}")
    goals = catalogue.goals
    tasks = []
    for number in range(len(goals)):
        product = catalogue.product(goals.product_at(number))
        if name == (official(number) if split == "official" else disjoint(product.asin)):
            tasks.append(Task(domain, f"{number:05d}-{goals[number].hash}", name, product.category))
    if not tasks:
        raise UserError(
            f"webshop: panel {name!r} of the {split} split is empty: this catalogue has {len(goals)} goals; the official split "
            f"trains on goals from {EVAL_END} on; set split: product_disjoint"
        )
    return Panel.of(domain, name, tasks)


def official(number: int) -> str:
    """The panel of a goal index in WebShop's and LEAP's split."""
    return "test" if number < TEST_END else "eval" if number < EVAL_END else "train"


def disjoint(asin: str) -> str:
    """The panel of every goal of a product: a product's goals never stand on two panels."""
    place = int(digest("webshop/split", asin, length=8), 16) / 16**8
    return "test" if place < TEST_SHARE else "eval" if place < TEST_SHARE + EVAL_SHARE else "train"


def goal_number(catalogue: Catalogue, task: Task) -> int:
    """The goal index of a task. Raises UserError if this catalogue's goal of that index is another one."""
    index, _, wanted = task.id.partition("-")
    if not index.isdecimal() or not wanted:
        raise UserError(f"webshop: task id {task.id!r} is not of the form <goal index>-<hash>")
    goal = catalogue.goals[int(index)]
    if goal.hash != wanted:
        raise UserError(
            f"webshop: task {task.id!r} is of another catalogue: goal {int(index)} is {goal.hash} here; check data, goals and "
            "goal_seed"
        )
    return int(index)
