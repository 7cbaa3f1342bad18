"""Run directories."""

from tiltlm.runs.directory import RunDirectory, check_contents

__all__ = [
    "RunDirectory",
    "check_contents",
]
