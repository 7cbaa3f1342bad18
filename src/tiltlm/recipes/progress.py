"""Progress of a recipe: a callback that does nothing by default; the command line passes one that draws."""

from typing import Protocol


class ProgressCallback(Protocol):
    """A function that is called as work proceeds."""

    def __call__(self, label: str, done: int, total: int, /, **figures: float) -> None:
        """Take note that `done` of `total` units of `label` are done; `figures` are worth showing beside that.

        A total of 0 means that `label` has begun and that its length is unknown.
        """
        ...


def silent(label: str, done: int, total: int, /, **figures: float) -> None:
    """Ignore progress."""
