"""One training pass over corrected ALFWorld episodes, in three ways: tokens computed, wall time, and the gradients compared.

- padded: separate examples in padded batches, as the authors' trainer does (and, for pairs, TRL): every example is computed
  whole, short ones are filled up, and logits are made at every position
- packed: separate examples end to end without padding; nothing is shared, logits where there is loss
- tree: leap_ray's prefix trees; every shared token once, logits where there is loss

Forward and backward, no optimiser step. Episodes come from the demonstrator with random slips, corrected at every step by the
symbolic teacher (`stumbles.py`): no student is needed. Gradients are compared on one episode in float32, where they must
agree; in bfloat16 any two orders of summation differ by about 1e-2.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from experiments.benchmarks.stumbles import corrected, shape
from leap_ray.config import SMOLLM2, LearnerConfig
from leap_ray.envs.base import make_env
from leap_ray.learning.attention import implementation, model_inputs
from leap_ray.learning.model import materialize
from leap_ray.learning.objectives import OBJECTIVES, branches_of, mass, target_logprobs
from leap_ray.learning.packing import rows_of
from leap_ray.learning.prefix_tree import Branch, Row, build_row
from leap_ray.policy import Prompter
from leap_ray.teachers.symbolic import SymbolicTeacher
from leap_ray.types import Example

CONFIG = LearnerConfig()
Objective = Literal["sft", "dpo"]


@dataclass
class Args:
    """Compare ways of training on corrected episodes."""

    domain: str = "alfworld"
    """`alfworld` (its games must be there: see `leap-ray data`), or `households` (generated games, no download)."""
    data: str | None = None
    """Folder of ALFWorld's games; default: $ALFWORLD_DATA."""
    model: str = SMOLLM2
    episodes: int = 1
    """Episodes per dialect."""
    steps: int = 20
    """Actions of an episode, at most (20 in the paper)."""
    slips: float = 0.4
    """Share of actions drawn at random."""
    batch: int = 4
    """Examples of a padded batch (the authors': 4 for SFT, 2 pairs for DPO, which is 4 sequences)."""
    budget: int = 4096
    """Tokens of a row; raised to the longest example where that is longer."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    threads: int = 2
    candidates: bool = False
    """Show candidate actions in the `chat` dialect, too (lean without them); `leap` always shows them, as the paper does."""
    compare: int = 4
    """Steps of the episode on which gradients are compared in float32."""


@dataclass
class Outcome:
    """Tokens that went through the model, and seconds forward and backward."""

    tokens: int
    seconds: float
    loss: float


def main(args: Args) -> dict[str, Any]:
    torch.set_num_threads(args.threads)
    figures: dict[str, Any] = {}
    table = Table(title=f"One pass over corrected {args.domain} episodes, {args.dtype}, {args.threads} threads")
    for column in ("dialect", "objective", "way", "tokens", "seconds", "tokens vs tree", "seconds vs tree"):
        table.add_column(column, justify="left" if column in ("dialect", "objective", "way") else "right")
    model = load(args, getattr(torch, args.dtype))
    for dialect in ("chat", "leap"):
        examples = episodes(args, dialect)
        figures[f"{dialect}_data"] = shape(examples)
        flat = [e for episode in examples for e in episode]
        for objective in ("sft", "dpo") if dialect == "chat" else ("sft",):
            outcomes = compare(model, flat, objective, args)
            tell(table, dialect, objective, outcomes)
            figures |= ratios(dialect, objective, outcomes)
        if dialect == "chat":
            few = [e for e in flat if e.rejected and e.rejected != e.response][: args.compare]
    console = Console(width=110)
    console.print(table)
    del model
    figures["grad_rel_l2"] = max(gradient_difference(few, objective, args) for objective in ("sft", "dpo"))
    console.print(
        f"Gradients of {len(few)} steps in float32, padded against tree: relative L2 {figures['grad_rel_l2']:.2g}.\n"
        "In `leap` every prompt renders the whole history anew in one message: after the shared beginning, two steps' prompts "
        "part at the first action and share nothing more; what little is shared is the task and the first observation."
    )
    print(json.dumps(figures))
    return figures


def episodes(args: Args, dialect: str) -> list[list[Example]]:
    """Examples of each corrected episode; the same games for both dialects."""
    settings = {"data": args.data} if args.domain == "alfworld" else {}
    env, teacher = make_env(args.domain, settings), SymbolicTeacher(make_env(args.domain, settings), correct="all")
    prompter = Prompter.load(str(materialize(args.model)), dialect, args.candidates or dialect == "leap")
    panel = env.panel("train")
    tasks = panel.sample(min(len(panel), 100 * args.episodes), 0).tasks
    found = corrected(env, teacher, prompter, tasks, count=args.episodes, steps=args.steps, slips=args.slips)
    env.close()
    return found


def load(args: Args, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(materialize(args.model), dtype=dtype).train()


def compare(model: Any, examples: Sequence[Example], objective: Objective, args: Args) -> dict[str, Outcome]:
    """Each way over the same examples. DPO takes those with a pair."""
    if objective == "dpo":
        examples = [e for e in examples if e.rejected and e.rejected != e.response]
    warm_up(model, examples, args)
    return {
        "padded": timed(model, padded(model, examples, objective, args)),
        "packed": timed(model, by_rows(model, packed_rows(examples, objective, args), objective, "blocks")),
        "tree": timed(model, by_rows(model, tree_rows(examples, objective, args), objective, "blocks")),
    }


def timed(model: Any, passes: Iterator[tuple[int, torch.Tensor]]) -> Outcome:
    """Run a way's passes, each yielding its tokens and its loss to differentiate."""
    model.zero_grad(set_to_none=True)
    begun, tokens, loss = time.perf_counter(), 0, 0.0
    for count, value in passes:
        value.backward()
        tokens, loss = tokens + count, loss + value.item()
    return Outcome(tokens, time.perf_counter() - begun, loss)


def warm_up(model: Any, examples: Sequence[Example], args: Args) -> None:
    """Kernels choose their blocking at first use; that belongs to no way."""
    short = [replace(e, prompt=e.prompt[:200], rejected=()) for e in examples[:2]]
    timed(model, padded(model, short, "sft", args))
    timed(model, by_rows(model, tree_rows(short, "sft", args), "sft", "blocks"))


def padded(
    model: Any, examples: Sequence[Example], objective: Objective, args: Args
) -> Iterator[tuple[int, torch.Tensor]]:
    """Batches of whole examples, filled up on the right; a pair's two sequences stand in one batch."""
    model.set_attn_implementation(implementation("sdpa"))
    units = [branches_of(e, objective, i) for i, e in enumerate(examples)]
    total = sum(mass(row, objective) for row in packed_rows(examples, objective, args))
    size = args.batch // len(units[0])
    for first in range(0, len(units), size):
        branches = [replace(b, unit=i) for i, unit in enumerate(units[first : first + size]) for b in unit]
        width = max(len(b.ids) for b in branches)
        ids = torch.zeros(len(branches), width, dtype=torch.long)
        mask = torch.zeros(len(branches), width, dtype=torch.long)
        for i, b in enumerate(branches):
            ids[i, : len(b.ids)], mask[i, : len(b.ids)] = torch.from_numpy(b.ids), 1
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        row = separate(branches)
        found = [
            target_logprobs(logits[i, b.start - 1 : len(b.ids) - 1], ids[i, b.start : len(b.ids)])
            for i, b in enumerate(branches)
        ]
        yield ids.numel(), OBJECTIVES[objective](torch.cat(found), row, CONFIG).value / total


def by_rows(
    model: Any, rows: Sequence[Row], objective: Objective, attention: str
) -> Iterator[tuple[int, torch.Tensor]]:
    model.set_attn_implementation(implementation(attention))
    total = sum(mass(row, objective) for row in rows)
    for row in rows:
        logits = model(**model_inputs(row, attention, "cpu", model.dtype)).logits[0]
        logprobs = target_logprobs(logits, torch.from_numpy(row.labels))
        yield row.tokens, OBJECTIVES[objective](logprobs, row, CONFIG).value / total


def tree_rows(examples: Sequence[Example], objective: Objective, args: Args) -> list[Row]:
    units = [branches_of(e, objective, i) for i, e in enumerate(examples)]
    longest = max(sum(len(b.ids) for b in unit) for unit in units)
    return [referenced(r) for r in rows_of(units, [e.id for e in examples], max(args.budget, longest))]


def packed_rows(examples: Sequence[Example], objective: Objective, args: Args) -> list[Row]:
    """Sequences one after another up to the budget, pairs together, nothing shared."""
    units = [branches_of(e, objective, i) for i, e in enumerate(examples)]
    bins: list[list[Branch]] = []
    for unit in sorted(units, key=lambda u: -sum(len(b.ids) for b in u)):
        size = sum(len(b.ids) for b in unit)
        place = next((b for b in bins if sum(len(x.ids) for x in b) + size <= args.budget), None)
        bins.append(list(unit)) if place is None else place.extend(unit)
    return [separate(branches) for branches in bins]


def separate(branches: Sequence[Branch]) -> Row:
    """A row in which every sequence is a tree of its own, even where they begin alike."""
    parts = [build_row([b]) for b in branches]
    starts = np.cumsum([0, *(len(p.ids) for p in parts)])
    targets = np.cumsum([0, *(len(p.labels) for p in parts)])
    joined: dict[str, Any] = {
        n: np.concatenate([getattr(p, n) for p in parts]) for n in ("ids", "positions", "labels", "weights")
    }
    return referenced(
        Row(
            **joined,
            exits=np.concatenate([p.exits + s for p, s in zip(parts, starts)]).astype(np.int32),
            sources=np.concatenate([p.sources + s for p, s in zip(parts, starts)]).astype(np.int32),
            pair_sequence=np.repeat(np.arange(len(parts)), [len(p.labels) for p in parts]).astype(np.int32),
            pair_target=np.concatenate([p.pair_target + t for p, t in zip(parts, targets)]).astype(np.int32),
            kinds=np.array([b.kind for b in branches], np.int32),
            units=np.array([b.unit for b in branches], np.int32),
        )
    )


def referenced(row: Row) -> Row:
    """With a reference policy of equal log-probabilities: its cost is the same in all ways and left out."""
    row.reference = np.zeros(len(row.kinds), np.float32)
    return row


def gradient_difference(examples: Sequence[Example], objective: Objective, args: Args) -> float:
    """Relative L2 between the gradients of padded batches and of trees, float32."""
    args = replace(args, batch=2)  # logits and activations of four long sequences in float32 take more than 20 GB
    model = load(args, torch.float32).eval()
    found = []
    for passes in (
        padded(model, examples, objective, args),
        by_rows(model, tree_rows(examples, objective, args), objective, "blocks"),
    ):
        timed(model, passes)
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    return float((found[1] - found[0]).norm() / found[0].norm())


def tell(table: Table, dialect: str, objective: str, outcomes: dict[str, Outcome]) -> None:
    tree = outcomes["tree"]
    for way, o in outcomes.items():
        against = (f"{o.tokens / tree.tokens:.2f} ×", f"{o.seconds / tree.seconds:.2f} ×")
        table.add_row(dialect, objective, way, f"{o.tokens:,}", f"{o.seconds:.1f}", *against)


def ratios(dialect: str, objective: str, outcomes: dict[str, Outcome]) -> dict[str, float]:
    """The figures by name: padded over tree, and packed over tree."""
    name = dialect if objective == "sft" else "dpo"
    tree = outcomes["tree"]
    figures = {}
    for way, suffix in (("padded", ""), ("packed", "_packed")):
        figures[f"{name}{suffix}_tokens_ratio"] = round(outcomes[way].tokens / tree.tokens, 3)
        figures[f"{name}{suffix}_time_ratio"] = round(outcomes[way].seconds / tree.seconds, 3)
    return figures | {f"{name}_tree_tokens_per_second": round(tree.tokens / tree.seconds, 1)}


if __name__ == "__main__":
    main(tyro.cli(Args))
