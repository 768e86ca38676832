"""The real student in this process: completes and scores like its server, without the server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from leap_ray.policy import Prompter
from leap_ray.types import Completion, Sampling


class InProcessStudent:
    """SmolLM2 through transformers, on one thread. Keeps what it was asked."""

    def __init__(self, folder: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(2)
        self.torch = torch
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.prompter = Prompter.load(folder, "chat", True)
        self.asked: list[tuple[list[int], str, str]] = []

    async def complete(
        self, prompt_ids: list[int], sampling: Sampling, seed: int, policy: str, request_id: str
    ) -> Completion:
        self.asked.append((prompt_ids, policy, request_id))
        torch = self.torch
        torch.manual_seed(seed)
        with torch.no_grad():
            out = self.model.generate(
                torch.tensor([prompt_ids]),
                max_new_tokens=min(40, sampling.max_tokens),
                do_sample=True,
                temperature=sampling.temperature,
                eos_token_id=self.prompter.end_id,
                pad_token_id=self.prompter.end_id,
            )
        ids = tuple(out[0, len(prompt_ids) :].tolist())
        return Completion(ids, (0.0,) * len(ids), "stop" if ids[-1] == self.prompter.end_id else "length")

    async def score(
        self, prompt_ids: list[int], candidates: Sequence[Sequence[int]], policy: str, key: str
    ) -> list[list[float]]:
        self.asked.append((prompt_ids, policy, key))
        return [self._logprobs(prompt_ids, list(candidate)) for candidate in candidates]

    def _logprobs(self, prompt: list[int], candidate: list[int]) -> list[float]:
        with self.torch.no_grad():
            logits = self.model(self.torch.tensor([prompt + candidate])).logits[0, len(prompt) - 1 : -1]
            return logits.log_softmax(-1)[range(len(candidate)), candidate].tolist()
