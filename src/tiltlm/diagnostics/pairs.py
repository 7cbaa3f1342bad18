"""What the diagnostics of held-out pairs read: log-probabilities of both sides, once before and once after training."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tiltlm.core import Pairs, ResponseLogps

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PairLogps:
    """B comparisons under one policy, as plain arrays."""

    chosen: Floats
    """[B] S(chosen), nats per response."""
    rejected: Floats
    chosen_tokens: Floats
    """[B] scored tokens."""
    rejected_tokens: Floats
    unit: NDArray[np.int64]
    """[B] which example each comparison belongs to: the unit of every interval."""

    @classmethod
    def of(cls, responses: ResponseLogps, pairs: Pairs) -> "PairLogps":
        """The comparisons of one pack."""
        sums, tokens = responses.seq_logps.detach().cpu().double(), responses.num_tokens.cpu().double()
        chosen, rejected = pairs.chosen.cpu(), pairs.rejected.cpu()
        return cls(
            chosen=sums[chosen].numpy(),
            rejected=sums[rejected].numpy(),
            chosen_tokens=tokens[chosen].numpy(),
            rejected_tokens=tokens[rejected].numpy(),
            unit=pairs.example.cpu().numpy(),
        )

    @classmethod
    def join(cls, packs: "Sequence[PairLogps]") -> "PairLogps":
        """Several packs as one; the units of each stay distinct from those of the others."""
        units, start = [], 0
        for pack in packs:
            units.append(pack.unit + start)
            start += int(pack.unit.max(initial=-1)) + 1
        return cls(
            chosen=np.concatenate([pack.chosen for pack in packs]),
            rejected=np.concatenate([pack.rejected for pack in packs]),
            chosen_tokens=np.concatenate([pack.chosen_tokens for pack in packs]),
            rejected_tokens=np.concatenate([pack.rejected_tokens for pack in packs]),
            unit=np.concatenate(units),
        )
