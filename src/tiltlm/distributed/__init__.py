"""Processes and devices of a run."""

from tiltlm.distributed.wrapping import Ranks

__all__ = [
    "Ranks",
]
