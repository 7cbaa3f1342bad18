"""The commands as Python functions: `tiltlm.train(...)`. The command line is made from them, see `command`."""

from tiltlm.config.calls.training import preview, quickstart, score, sweep, train
# isort: split  # commands stand in `--help` in the order of these imports
from tiltlm.config.calls.answers import sample
from tiltlm.config.calls.judging import judge
from tiltlm.config.calls.comparing import compare
from tiltlm.config.command import COMMANDS

__all__ = ["COMMANDS", "compare", "judge", "preview", "quickstart", "sample", "score", "sweep", "train"]
