"""Leave out training pairs whose two responses the untrained policy sees as most alike (`data.max_ches`).

On such pairs a loss of margins lowers the better response too. Razin et al. (arXiv:2410.08847, section 6) train on the
part of the data with the lowest CHES, and the better responses then keep their probability.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tiltlm.core import Example
from tiltlm.core.notes import Note
from tiltlm.data import PreferenceData
from tiltlm.data.cache.fingerprints import fingerprint
from tiltlm.data.cache.lazy import Selection
from tiltlm.distributed import Ranks
from tiltlm.evaluation.ches import comparison_ches
from tiltlm.logprobs import PolicyModule

CHUNK = 4_096
"""Examples whose values are computed before the next ones are read."""


def leave_out_alike(
    module: PolicyModule, data: PreferenceData, keep: float, max_tokens: int, ranks: Ranks | None = None
) -> PreferenceData:
    """Return the data without the training examples of the highest CHES per token. They are counted as left out.

    The value of an example is the mean over its comparisons.

    Args:
        module: The untrained policy.
        data: Held-out examples stay as they are.
        keep: Share of the training examples to keep, those with the lowest CHES.
        max_tokens: Most input tokens of one forward.
        ranks: Processes that share the forwards; all must call this function together. None: this one alone.

    Raises:
        ModelError: the hidden states of this model are not known.
    """
    values = mean_ches(module, data.train, max_tokens, ranks)
    limit = float(np.quantile(values, keep))
    kept = np.flatnonzero(values <= limit).tolist()
    for row in np.flatnonzero(values > limit).tolist():
        data.accounting.leave_out(data.train[row], "ches_above_limit", f"CHES {values[row]:.3g}, limit {limit:.3g}")
    train = Selection(data.train, kept)
    note = Note(
        f"{len(values) - len(kept):,} of {len(values):,} training examples are left out, whose responses the policy "
        f"sees as most alike (CHES per token above {limit:.3g}; data.max_ches={keep:g})",
        code="alike_pairs",
    )
    return replace(data, train=train, fingerprint=fingerprint(train, data.held_out), notes=(*data.notes, note))


def mean_ches(
    module: PolicyModule, examples: Sequence[Example], max_tokens: int, ranks: Ranks | None = None
) -> np.ndarray:
    """Return the mean CHES per token of each example's comparisons, [B]; −∞ for one without comparisons."""
    means: list[float] = []
    for start in range(0, len(examples), CHUNK):
        part = [examples[row] for row in range(start, min(start + CHUNK, len(examples)))]
        means += [
            float(own.mean()) if own.size else -np.inf for own in comparison_ches(module, part, max_tokens, ranks)
        ]
    return np.array(means)
