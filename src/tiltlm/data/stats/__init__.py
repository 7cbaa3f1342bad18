"""Statistics of data before any training, in one pass: sums that merge, in memory that hardly grows with the rows."""

from tiltlm.data.stats.lengths import LengthBias
from tiltlm.data.stats.statistics import DataStatistics, collect_statistics

__all__ = ["DataStatistics", "LengthBias", "collect_statistics"]
