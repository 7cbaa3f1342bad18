"""`Part`: the base of an objective's parts beside reward and link."""

from tiltlm.core.logps import Extra
from tiltlm.core.needs import Need


class Part:
    """A part of an objective beside reward and link: an adjustment, a regulariser or a weighting.

    A part states its requirements, so that they are known before it is called. A subclass overrides the defaults that
    differ, as a `ClassVar` or a property. Parts are frozen dataclasses and final.
    """

    @property
    def needs_reference(self) -> bool:
        """True if it reads log-probabilities of a reference."""
        return False

    @property
    def extras(self) -> frozenset[Extra]:
        """Numbers per token that it reads beside the log-probability."""
        return frozenset()

    @property
    def needs(self) -> frozenset[Need]:
        """Columns that the data must have: `scores`, or `strict_scores` (higher for the chosen response)."""
        return frozenset()
