"""`ObjectiveBase`: defaults of the objective classes, so that each class states only what differs."""

from abc import ABC, abstractmethod
from typing import Any

from tiltlm.core import Responses
from tiltlm.core.logps import Extra
from tiltlm.core.needs import Need, Shape, Use
from tiltlm.objectives.parts.statistics import Statistic
from tiltlm.objectives.terms import Term, ViewOf
from tiltlm.rewards import Reward


class ObjectiveBase(ABC):
    """Base of objectives; `Objective` documents the properties. Subclasses are frozen dataclasses with a `reward`.

    A subclass states `view` and `shape` and overrides the defaults that differ, as a `ClassVar`, a field or a property.
    Properties that combine several parts are cached, because a training step reads them for every pack.
    """

    reward: Reward

    @property
    @abstractmethod
    def view(self) -> ViewOf:
        """The index view it reads."""

    @property
    @abstractmethod
    def shape(self) -> Shape:
        """The shape of the data it learns from."""

    @property
    def coupled(self) -> bool:
        """False: an example's loss does not depend on other examples of its step."""
        return False

    @property
    def needs_reference(self) -> bool:
        """True if the reward compares the policy with a reference."""
        return self.reward.needs_reference

    @property
    def statistic(self) -> Statistic | None:
        """None: no statistic of the step is read."""
        return None

    @property
    def needs(self) -> frozenset[Need]:
        """No further columns are required."""
        return frozenset()

    @property
    def uses(self) -> frozenset[Use]:
        """The weights of examples."""
        return frozenset({"weight"})

    @property
    def extras(self) -> frozenset[Extra]:
        """No extras are read."""
        return frozenset()

    @abstractmethod
    def __call__(self, responses: Responses, view: Any, /) -> tuple[Term, ...]:
        """Return weighted, unreduced losses of the view's rows."""
