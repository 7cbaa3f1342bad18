from .device import detached, to_device
from .errors import ConfigError, DataError, ModelError, NumericsError, RunError, TiltError
from .example import Comparison, Example, Response, TokenIds, token_ids
from .forest import Forest, Tree, build_trees, pack_trees, with_score_token
from .logps import Extra, ResponseLogps, segment_sum
from .scores import Responses, ResponseScores
from .views import Counts, Demonstrations, Lists, Pairs, UnpairedResponses, View, Views

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
