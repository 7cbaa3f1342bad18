"""Statistics of data before any training, in one pass: sums that merge, in memory that hardly grows with the rows."""

from tiltlm.data.stats.lengths import LengthBias

__all__ = ["LengthBias"]
