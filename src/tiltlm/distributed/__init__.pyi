from .ranks import Ranks

__all__ = [
    "Ranks",
]
