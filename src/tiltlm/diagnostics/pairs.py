"""Log-probabilities of both sides of comparisons under one policy, for the diagnostics of held-out pairs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tiltlm.core import Pairs, ResponseLogps

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PairLogps:
    """B comparisons under one policy, as numpy arrays."""

    chosen: Floats
    """[B] S(chosen), nats per response."""
    rejected: Floats
    """[B] S(rejected), nats per response."""
    unit: NDArray[np.int64]
    """[B] number of the example that each comparison belongs to. Intervals are over these units."""

    @classmethod
    def of(cls, responses: ResponseLogps, pairs: Pairs) -> "PairLogps":
        """Return the comparisons of one pack."""
        sums = responses.seq_logps.detach().cpu().double()
        return cls(
            chosen=sums[pairs.chosen.cpu()].numpy(),
            rejected=sums[pairs.rejected.cpu()].numpy(),
            unit=pairs.example.cpu().numpy(),
        )

    @classmethod
    def join(cls, packs: "Sequence[PairLogps]") -> "PairLogps":
        """Return several packs as one. The units of each pack stay distinct from those of the others."""
        units, start = [], 0
        for pack in packs:
            units.append(pack.unit + start)
            start += int(pack.unit.max(initial=-1)) + 1
        return cls(
            chosen=np.concatenate([pack.chosen for pack in packs]),
            rejected=np.concatenate([pack.rejected for pack in packs]),
            unit=np.concatenate(units),
        )
