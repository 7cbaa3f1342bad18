from .device import detached, to_device
from .errors import ConfigError, DataError, ModelError, NumericsError, RunError, TiltError
from .example import Comparison, Credit, Example, Response, TokenIds, token_ids
from .forest import Forest, Tree, build_trees, pack_trees, with_score_token
from .logps import Extra, ResponseLogps, segment_sum
from .scores import Responses, ResponseScores
from .views import Counts, Demonstrations, Lists, Pairs, Rollouts, UnpairedResponses, View, Views

__all__ = [
    "Comparison",
    "ConfigError",
    "Counts",
    "Credit",
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
    "Rollouts",
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
