"""Run directories."""

from tiltlm.runs.directory import RunDirectory, check_contents, check_output

__all__ = [
    "RunDirectory",
    "check_contents",
    "check_output",
]
