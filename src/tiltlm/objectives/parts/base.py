"""What every part of an objective says of itself, so that an objective can tell what it needs before it is called."""

from typing import ClassVar

from tiltlm.core.logps import Extra
from tiltlm.core.needs import Need


class Part:
    """A piece of an objective beside reward and link. Subclasses are frozen dataclasses and final."""

    needs_reference: ClassVar[bool] = False
    extras: ClassVar[frozenset[Extra]] = frozenset()
    """Numbers per token beside the log-probability that it reads."""
    needs: ClassVar[frozenset[Need]] = frozenset()
    """What the data must bring: `scores`, or `strict_scores` (the chosen response has the higher one)."""


def needs_of(parts: tuple[Part, ...]) -> frozenset[Need]:
    """What all of these need of the data."""
    return frozenset().union(*(part.needs for part in parts))


def extras_read(parts: tuple[Part, ...]) -> frozenset[Extra]:
    """All the numbers per token that these read."""
    return frozenset().union(*(part.extras for part in parts))
