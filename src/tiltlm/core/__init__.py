"""Basic types: examples, forests, log-probabilities, index views, errors.

Shape letters, the same in the whole package: `B` comparisons (or unpaired responses), `N` responses, `R` scored tokens,
`T` input tokens of a pack, `V` vocabulary, `K` responses per prompt, `D` hidden width.
"""

from tiltlm.core.device import detached, to_device
from tiltlm.core.errors import ConfigError, DataError, ModelError, NumericsError, RunError, TiltError
from tiltlm.core.example import Comparison, Example, Response, TokenIds, token_ids
from tiltlm.core.forest import Forest, Tree, build_trees, pack_trees, with_score_token
from tiltlm.core.logps import Extra, ResponseLogps, segment_sum
from tiltlm.core.scores import Responses, ResponseScores
from tiltlm.core.views import Counts, Demonstrations, Lists, Pairs, UnpairedResponses, View, Views

__all__ = [
    "Comparison",
    "ConfigError",
    "Counts",
    "DataError",
    "Demonstrations",
    "Example",
    "Extra",
    "Forest",
    "Lists",
    "ModelError",
    "NumericsError",
    "Pairs",
    "Response",
    "ResponseLogps",
    "ResponseScores",
    "Responses",
    "RunError",
    "TiltError",
    "TokenIds",
    "Tree",
    "UnpairedResponses",
    "View",
    "Views",
    "build_trees",
    "detached",
    "pack_trees",
    "segment_sum",
    "to_device",
    "token_ids",
    "with_score_token",
]
