"""Run directories."""

from tiltlm.runs.directory import RunDirectory, check_contents, check_output
from tiltlm.runs.log import RunLog, run_log

__all__ = [
    "RunDirectory",
    "RunLog",
    "check_contents",
    "check_output",
    "run_log",
]
