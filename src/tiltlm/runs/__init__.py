"""Run directories."""

from tiltlm.runs.directory import RunDirectory, check_contents, check_output, check_start, check_sweep
from tiltlm.runs.log import RunLog, run_log

__all__ = [
    "RunDirectory",
    "RunLog",
    "check_contents",
    "check_output",
    "check_start",
    "check_sweep",
    "run_log",
]
