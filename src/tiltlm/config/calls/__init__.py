"""The commands as Python functions: `tiltlm.train(...)`. The command line is made from them, see `command`."""

from tiltlm.config.calls.training import export, preview, quickstart, score, sweep, train

# The splits keep the order of `--help`: training, answers and judges, then what is measured with them.
# isort: split
from tiltlm.config.calls.planning.estimating import estimate

# isort: split
from tiltlm.config.calls.loops import loop

# isort: split
from tiltlm.config.calls.answers import sample

# isort: split
from tiltlm.config.calls.judging import judge

# isort: split
from tiltlm.config.calls.auditing import judge_audit
from tiltlm.config.calls.comparing import compare

# isort: split
from tiltlm.config.calls.pools import best_of_n

# isort: split
from tiltlm.config.calls.frontiers import frontier
from tiltlm.config.calls.methods import compare_methods

# isort: split
from tiltlm.config.calls.runs import push, runs_diff, runs_list

# isort: split
from tiltlm.config.calls.data.agreeing import agreement
from tiltlm.config.calls.data.checking import check
from tiltlm.config.calls.data.converting import convert
from tiltlm.config.calls.data.describing import stats
from tiltlm.config.calls.data.split import split

# isort: split
from tiltlm.config.calls.labeling.serving import label_serve

# isort: split
from tiltlm.config.calls.labeling.inviting import label_invite
from tiltlm.config.calls.labeling.terminal import label_tui

# isort: split
from tiltlm.config.calls.labeling.inspecting import label_adjudicate, label_status

# isort: split
from tiltlm.config.calls.labeling.exporting import label_export

# isort: split
from tiltlm.config.calls.labeling.backups import label_backup, label_restore

# isort: split
from tiltlm.config.command import COMMANDS

__all__ = [
    "COMMANDS",
    "agreement",
    "best_of_n",
    "check",
    "compare",
    "compare_methods",
    "convert",
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
