"""The own sampler as an engine: exact, in this process."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tiltlm.core.example import TokenIds
from tiltlm.distributed import Ranks
from tiltlm.logprobs import PolicyModule
from tiltlm.sampling.decoding import Mixture
from tiltlm.sampling.drawing import SamplingSettings
from tiltlm.sampling.engines.engine import Batch, EngineAnswer, Progress
from tiltlm.sampling.sampler import sample


@dataclass(frozen=True, eq=False)
class OwnEngine:
    """This library's sampler, of a policy, of another model, or of a mixture of the two."""

    policy: PolicyModule
    digest: str
    mixture: Mixture | None = None
    ranks: Ranks = field(default_factory=Ranks)
    """Processes that share the prompts of a draw, and call it together."""
    name: str = "own"
    is_exact: bool = True

    def draw(
        self,
        prompts: Sequence[TokenIds],
        n: int,
        settings: SamplingSettings,
        *,
        seed: int,
        end_token_ids: Sequence[int],
        progress: Progress | None = None,
    ) -> Batch:
        """Draw n answers to each prompt; see `Engine.draw`."""
        count = n * len(prompts)

        def show(tokens: int, most: int) -> None:  # answers that end early count all their tokens
            if progress is not None:
                progress(count * tokens // most, count)

        asked: dict[str, Any] = {"seed": seed, "end_token_ids": end_token_ids, "progress": show, "ranks": self.ranks}
        if self.mixture is not None and self.mixture.is_alone:
            with self.mixture.in_place():
                samples = sample(self.mixture.module, prompts, n, settings, **asked)
        else:
            samples = sample(self.policy, prompts, n, settings, **asked, mixture=self.mixture)
        return Batch(
            [[_answer(s.token_ids, s.ended, s.token_logps, s.behaviour_logps) for s in own] for own in samples]
        )


def _answer(ids: TokenIds, ended: bool, logps: np.ndarray, behaviour: np.ndarray) -> EngineAnswer:
    return EngineAnswer(ids, ended, float(logps.sum(dtype=np.float64)), float(behaviour.sum(dtype=np.float64)))
