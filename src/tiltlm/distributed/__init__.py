"""The processes and devices of a run."""

from tiltlm.distributed.ranks import Ranks

__all__ = [
    "Ranks",
]
