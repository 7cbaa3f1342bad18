from . import core as core
from . import data as data
from . import diagnostics as diagnostics
from . import distributed as distributed
from . import evaluation as evaluation
from . import judging as judging
from . import links as links
from . import logprobs as logprobs
from . import models as models
from . import objectives as objectives
from . import online as online
from . import reference as reference
from . import report as report
from . import rewards as rewards
from . import runs as runs
from . import sampling as sampling
from . import training as training
from . import worlds as worlds
from .config.calls import (
    agreement,
    best_of_n,
    check,
    compare,
    compare_methods,
    convert,
    estimate,
    export,
    frontier,
    judge,
    judge_audit,
    label_adjudicate,
    label_backup,
    label_export,
    label_invite,
    label_restore,
    label_serve,
    label_status,
    label_tui,
    loop,
    preview,
    push,
    quickstart,
    runs_diff,
    runs_list,
    sample,
    score,
    split,
    stats,
    sweep,
    train,
)
from .config.notebook import build_objective, describe_objective, list_objectives, load_data, load_policy
from .core import Comparison, Example, Response
from .version import __version__

__all__ = [
    "Comparison",
    "Example",
    "Response",
    "__version__",
    "agreement",
    "best_of_n",
    "build_objective",
    "check",
    "compare",
    "compare_methods",
    "convert",
    "describe_objective",
    "estimate",
    "export",
    "frontier",
    "judge",
    "judge_audit",
    "label_adjudicate",
    "label_backup",
    "label_export",
    "label_invite",
    "label_restore",
    "label_serve",
    "label_status",
    "label_tui",
    "list_objectives",
    "load_data",
    "load_policy",
    "loop",
    "preview",
    "push",
    "quickstart",
    "runs_diff",
    "runs_list",
    "sample",
    "score",
    "split",
    "stats",
    "sweep",
    "train",
]
