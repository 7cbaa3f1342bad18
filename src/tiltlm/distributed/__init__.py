"""Processes and devices of a run."""

from tiltlm.distributed.wrapping import World

__all__ = [
    "World",
]
