"""The commands as Python functions: `tiltlm.train(...)`. The command line is made from them, see `command`."""

from tiltlm.config.calls.auditing import judge_audit
from tiltlm.config.calls.judging import judge
from tiltlm.config.calls.training import preview, quickstart, score, sweep, train
from tiltlm.config.command import COMMANDS

__all__ = ["COMMANDS", "judge", "judge_audit", "preview", "quickstart", "score", "sweep", "train"]
