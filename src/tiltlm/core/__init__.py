"""The nouns: examples, forests, log-probabilities, index views, errors.

Shape letters, one legend for the package: `B` comparisons (or labelled responses), `N` responses, `R` scored tokens,
`T` input tokens of a pack, `V` vocabulary, `K` responses per prompt, `D` hidden width.
"""

from tiltlm.core.device import to_device
from tiltlm.core.errors import ConfigError, DataError, ModelError, NumericsError, RunError, TiltError
from tiltlm.core.example import Comparison, Example, Response, TokenIds, token_ids
from tiltlm.core.forest import Forest, Tree, grow, plant
from tiltlm.core.logps import ResponseLogps, segment_sum
from tiltlm.core.views import Counts, Demonstrations, Labelled, Pairs, View

__all__ = [
    "Comparison",
    "ConfigError",
    "Counts",
    "DataError",
    "Demonstrations",
    "Example",
    "Forest",
    "Labelled",
    "ModelError",
    "NumericsError",
    "Pairs",
    "Response",
    "ResponseLogps",
    "RunError",
    "TiltError",
    "TokenIds",
    "Tree",
    "View",
    "grow",
    "plant",
    "segment_sum",
    "to_device",
    "token_ids",
]
