"""A weighted sum of objectives on the same data. Each reads its own view of the examples and has its own divisor."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from tiltlm.core import ConfigError, Example, Responses, Views
from tiltlm.core.logps import Extra
from tiltlm.core.needs import Need, Shape, Use
from tiltlm.core.views import Slots
from tiltlm.objectives.parts.statistics import Statistic
from tiltlm.objectives.terms import Objective, Term, ViewOf
from tiltlm.rewards import Reward

MIXABLE: tuple[Shape, ...] = ("rollouts", "lists", "pairs", "demonstrations")
"""Shapes that one data set can have together: lists contain pairs, and pairs contain responses to imitate. Rollouts may
be compared, too."""


@dataclass(frozen=True)
class ViewsOf:
    """A factory of the view of a sum: the views of all its objectives."""

    kinds: tuple[ViewOf, ...]

    def of(self, examples: Sequence[Example], slots: Slots) -> Views:
        """Return the views of these examples, one per objective."""
        return Views(tuple(kind.of(examples, slots) for kind in self.kinds))


@dataclass(frozen=True)
class WeightedSum:
    """ℓ = Σ weight·ℓ_i. The logged rewards and metrics are those of the first objective."""

    objectives: tuple[Objective, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.objectives) < 2 or len(self.objectives) != len(self.weights):
            raise ConfigError(
                "sum must have at least two objectives, each with a weight", code="too_few_terms", key="sum"
            )
        for i, weight in enumerate(self.weights):
            if not 0 < weight < float("inf"):
                raise ConfigError(
                    f"sum.{i}.weight is {weight}; it must be a positive number; to leave a term out, remove it",
                    code="not_positive",
                    key=f"sum.{i}.weight",
                )
        if len({o.shape for o in self.objectives}) > 1 and any(o.shape not in MIXABLE for o in self.objectives):
            shapes = ", ".join(sorted({o.shape for o in self.objectives}))
            raise ConfigError(
                f"sum has objectives that read {shapes}, and no data set has all of these. Objectives of unpaired data "
                "cannot be summed with others; for pairs, use bco_pair or apo_zero instead of bco or kto",
                code="no_common_data",
                key="sum",
            )
        if sum(o.statistic is not None for o in self.objectives) > 1:
            raise ConfigError(
                "sum has several objectives with a statistic of the step (kto, bco); it may have one",
                code="several_statistics",
                key="sum",
            )

    @cached_property
    def view(self) -> ViewsOf:
        """The factory of all objectives' views."""
        return ViewsOf(tuple(o.view for o in self.objectives))

    @cached_property
    def shape(self) -> Shape:
        """The shape of data that all objectives can read."""
        shapes = {o.shape for o in self.objectives}
        return next((s for s in MIXABLE if s in shapes), self.objectives[0].shape)

    @cached_property
    def coupled(self) -> bool:
        """True if one objective is coupled."""
        return any(o.coupled for o in self.objectives)

    @cached_property
    def statistic(self) -> Statistic | None:
        """The statistic of the objective that has one."""
        return next((o.statistic for o in self.objectives if o.statistic is not None), None)

    @cached_property
    def needs_reference(self) -> bool:
        """True if one objective reads a reference."""
        return any(o.needs_reference for o in self.objectives)

    @cached_property
    def needs(self) -> frozenset[Need]:
        """Columns that any objective requires."""
        return frozenset[Need]().union(*(o.needs for o in self.objectives))

    @cached_property
    def uses(self) -> frozenset[Use]:
        """Optional columns that change the loss of at least one objective."""
        return frozenset[Use]().union(*(o.uses for o in self.objectives))

    @cached_property
    def extras(self) -> frozenset[Extra]:
        """Numbers per token that any objective reads."""
        return frozenset[Extra]().union(*(o.extras for o in self.objectives))

    @cached_property
    def reward(self) -> Reward:
        """The reward of the first objective."""
        return self.objectives[0].reward

    def __call__(self, responses: Responses, views: Views, /) -> tuple[Term, ...]:
        """Return the terms of all objectives, multiplied by their weights."""
        return tuple(
            replace(term, values=weight * term.values)
            for objective, weight, view in zip(self.objectives, self.weights, views.parts, strict=True)
            for term in objective(responses, view)
        )
