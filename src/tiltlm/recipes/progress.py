"""How a recipe says how far it is: one callable, silent by default; the command line hands in one that draws."""

from typing import Protocol


class ProgressCallback(Protocol):
    """Told of progress."""

    def __call__(self, label: str, done: int, total: int, /, **figures: float) -> None:
        """`done` of `total` units of what `label` names; `figures` are worth showing beside it."""
        ...


def silent(label: str, done: int, total: int, /, **figures: float) -> None:
    """Progress that nobody watches."""
