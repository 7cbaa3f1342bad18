"""The commands as Python functions: `tiltlm.train(...)`. The command line is made from them, see `command`."""

from tiltlm.config.calls.training import preview, quickstart, score, sweep, train

# The split keeps the order of `--help`: training first.
# isort: split
from tiltlm.config.calls.answers import sample
from tiltlm.config.calls.auditing import judge_audit
from tiltlm.config.calls.comparing import compare
from tiltlm.config.calls.judging import judge
from tiltlm.config.calls.pools import best_of_n
from tiltlm.config.command import COMMANDS

__all__ = [
    "COMMANDS",
    "best_of_n",
    "compare",
    "judge",
    "judge_audit",
    "preview",
    "quickstart",
    "sample",
    "score",
    "sweep",
    "train",
]
