"""Intervals of shares and means in one pass over any number of rows, with memory that does not grow.

The rows of one prompt are dependent, so the prompt must be resampled, not the row. Keeping a number per prompt would
need memory for all of them. Here each prompt falls into one of `BUCKETS` buckets by a hash, and only sums by bucket are
kept. Buckets are independent, because every prompt is in one of them, and they are what the bootstrap resamples.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from tiltlm.estimates.intervals import RESAMPLES, Interval, bootstrap, wilson

BUCKETS = 1024
"""Enough that an interval is as good as one over prompts; with fewer prompts, most have a bucket of their own."""


class UnitSums:
    """Sums of several values over rows, by buckets of the unit (prompt) that a row belongs to."""

    def __init__(self, num_values: int) -> None:
        """Begin with sums of 0.

        Args:
            num_values: Number of values of a row.
        """
        self.num_rows = 0
        self._sums = np.zeros((BUCKETS, num_values))
        self._rows = np.zeros(BUCKETS, dtype=np.int64)

    def add(self, values: Sequence[float], unit: str | None = None) -> None:
        """Add a row.

        Args:
            values: Its values.
            unit: What it has in common with dependent rows, such as the prompt. None: it is independent of all others.
        """
        if unit is None:
            bucket = self.num_rows % BUCKETS
        else:
            digest = hashlib.blake2b(unit.encode("utf-8", "surrogatepass"), digest_size=4).digest()
            bucket = int.from_bytes(digest, "big") % BUCKETS
        self.num_rows += 1
        self._rows[bucket] += 1
        self._sums[bucket] += values

    def merge(self, later: "UnitSums") -> None:
        """Add the sums of other rows."""
        self.num_rows += later.num_rows
        self._rows += later._rows
        self._sums += later._sums

    def total(self, index: int) -> float:
        """Return the sum of a value over all rows."""
        return float(self._sums[:, index].sum())

    def ratio(self, above: int, below: int | None = None, *, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
        """Return the sum of one value over the sum of another one, with a bootstrap interval over buckets.

        Args:
            above: Index of the value in the numerator.
            below: Index of the value in the denominator, which must not be negative. None: the number of rows, so that
                the ratio is a mean.
            seed: Seed of the bootstrap.
            resamples: Number of draws.

        Returns:
            The interval; its `n` is the number of buckets that have rows. NaN where the denominator is 0.
        """
        used = self._rows > 0
        numbers = self._sums[used, above]
        weights = self._rows[used].astype(np.float64) if below is None else self._sums[used, below]
        if not weights.size or weights.sum() <= 0:
            return Interval(np.nan, np.nan, np.nan, 0.95, int(used.sum()))

        def ratio(draw: np.ndarray) -> np.ndarray:
            with np.errstate(invalid="ignore", divide="ignore"):
                return np.asarray(numbers[draw].sum(1) / weights[draw].sum(1))

        return bootstrap(ratio, len(numbers), seed=seed, resamples=resamples)

    def share(self, above: int, below: int | None = None, *, seed: int = 0) -> Interval:
        """Return `ratio` for a share, a ratio between 0 and 1.

        Where it is exactly 0 or 1 a bootstrap shows no spread, and Wilson's interval of the buckets is given.
        """
        found = self.ratio(above, below, seed=seed)
        if found.estimate in (0.0, 1.0):
            return wilson(found.estimate * found.n, found.n)
        return found
