"""A weighted sum of objectives on the same data: each reads its own view of the examples and keeps its own divisor."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from tiltlm.core import ConfigError, Example, ResponseLogps, Views
from tiltlm.core.logps import Extra
from tiltlm.core.needs import Need, Shape, Use
from tiltlm.core.views import Slots
from tiltlm.objectives.parts.statistics import Statistic
from tiltlm.objectives.terms import Objective, Term, ViewOf
from tiltlm.rewards import Reward

MIXABLE: tuple[Shape, ...] = ("lists", "pairs", "demonstrations")
"""What the data of the first can also serve: lists are pairs too, and pairs have a response to imitate."""


@dataclass(frozen=True)
class ViewsOf:
    """Makes the view of a sum: the views of its parts, side by side."""

    kinds: tuple[ViewOf, ...]

    def of(self, examples: Sequence[Example], slots: Slots) -> Views:
        return Views(tuple(kind.of(examples, slots) for kind in self.kinds))


@dataclass(frozen=True)
class WeightedSum:
    """ℓ = Σ weight·ℓ_i. Rewards and metrics are those of the first part."""

    objectives: tuple[Objective, ...]
    weights: tuple[float, ...]
    name: ClassVar[str] = "sum"

    def __post_init__(self) -> None:
        if len(self.objectives) < 2 or len(self.objectives) != len(self.weights):
            raise ConfigError(
                "sum needs at least two objectives, and a weight for each", code="too_few_terms", key="sum"
            )
        for i, weight in enumerate(self.weights):
            if not 0 < weight < float("inf"):
                raise ConfigError(
                    f"sum.{i}.weight is {weight}; it must be a positive number: leave out what has none",
                    code="not_positive",
                    key=f"sum.{i}.weight",
                )
        if len({o.shape for o in self.objectives}) > 1 and any(o.shape not in MIXABLE for o in self.objectives):
            shapes = ", ".join(sorted({o.shape for o in self.objectives}))
            raise ConfigError(
                f"sum is of objectives of {shapes}: no data serves them all. Single labels stand alone; for pairs use "
                "bco_pair or apo_zero instead of bco or kto",
                code="no_common_data",
                key="sum",
            )
        if sum(o.statistic is not None for o in self.objectives) > 1:
            raise ConfigError(
                "sum may hold one objective with a statistic of the step (kto, bco), not several",
                code="several_statistics",
                key="sum",
            )

    @property
    def view(self) -> ViewsOf:
        return ViewsOf(tuple(o.view for o in self.objectives))

    @property
    def shape(self) -> Shape:
        shapes = {o.shape for o in self.objectives}
        return next((s for s in MIXABLE if s in shapes), self.objectives[0].shape)

    @property
    def coupled(self) -> bool:
        return any(o.coupled for o in self.objectives)

    @property
    def statistic(self) -> Statistic | None:
        return next((o.statistic for o in self.objectives if o.statistic is not None), None)

    @property
    def needs_reference(self) -> bool:
        return any(o.needs_reference for o in self.objectives)

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset().union(*(o.needs for o in self.objectives))

    @property
    def uses(self) -> frozenset[Use]:
        """A column must mean something to at least one part."""
        return frozenset().union(*(o.uses for o in self.objectives))

    @property
    def extras(self) -> frozenset[Extra]:
        return frozenset().union(*(o.extras for o in self.objectives))

    @property
    def reward(self) -> Reward:
        return self.objectives[0].reward

    def __call__(self, responses: ResponseLogps, views: Views, /) -> tuple[Term, ...]:
        return tuple(
            replace(term, values=weight * term.values)
            for objective, weight, view in zip(self.objectives, self.weights, views.parts, strict=True)
            for term in objective(responses, view)
        )
