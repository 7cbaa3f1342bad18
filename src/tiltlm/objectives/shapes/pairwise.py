"""Comparisons as data: chosen ≻ rejected. DPO, IPO, SimPO and their kin differ only in reward and link."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from tiltlm.core import ConfigError, Pairs, ResponseLogps
from tiltlm.core.checks import positive
from tiltlm.core.logps import Extra
from tiltlm.core.needs import Need, Shape, Use
from tiltlm.links import Link, Sigmoid
from tiltlm.objectives.parts.adjustments import Adjustment, gaps
from tiltlm.objectives.parts.base import Part, extras_read, needs_of
from tiltlm.objectives.parts.regularisers import Anchor, Regulariser
from tiltlm.objectives.parts.weightings import Weighting
from tiltlm.objectives.terms import Divisor, Term
from tiltlm.rewards import Reward


@dataclass(frozen=True)
class Pairwise:
    """ℓ = strength·link(u) + Σ regularisers, u = r(chosen) − r(rejected) − offset, adjusted.

    One loss per comparison, weighted, divided by the examples of the step. With a soft label p it is
    p·ℓ(chosen ≻ rejected) + (1 − p)·ℓ(rejected ≻ chosen).
    """

    reward: Reward
    link: Link | None
    """None: nothing but regularisers, the reward is what is logged."""
    adjustments: tuple[Adjustment, ...] = ()
    regularisers: tuple[Regulariser, ...] = ()
    weighting: Weighting | None = None
    """Multiplies the link's term."""
    strength: float = 1.0
    """Weight of the link's term beside the regularisers."""
    labels_from_scores: bool = False
    """p = σ(score_w − score_l) instead of the data's `preference`."""
    view: ClassVar[type[Pairs]] = Pairs
    shape: ClassVar[Shape] = "pairs"
    coupled: ClassVar[bool] = False
    statistic: ClassVar[None] = None

    def __post_init__(self) -> None:
        positive(strength=self.strength)
        if self.link is None and (self.adjustments or self.weighting or self.strength != 1.0):
            raise ConfigError(
                "link is null, so that there is no margin to adjust or to weight; give a link",
                code="needs_link",
                key="link",
            )
        if self.link is None and not self.regularisers:
            raise ConfigError(
                "link is null and there is no regulariser: the loss would be 0; give one of them",
                code="zero_loss",
                key="link",
            )
        if self.labels_from_scores and needs_of(self.adjustments):
            raise ConfigError(
                "labels_from_scores reads each comparison both ways round, and an adjustment reads the same scores one "
                "way only; leave out one of them",
                code="conflict",
                key="labels_from_scores",
            )
        self._check_repeated()

    def _check_repeated(self) -> None:
        """Raise where a part is given twice, or undone by another."""
        for key, parts in (("adjustments", self.adjustments), ("regularisers", self.regularisers)):
            for i, part in enumerate(parts):
                if part in parts[:i]:
                    raise ConfigError(
                        f"{key}.{i} is given twice; give it once, with twice its weight",
                        code="duplicate",
                        key=f"{key}.{i}",
                    )
        for i, part in enumerate(self.regularisers):
            if not isinstance(part, Anchor) or not isinstance(part.link, Sigmoid):
                continue
            if replace(part, sign=-part.sign) in self.regularisers[:i]:
                raise ConfigError(
                    f"regularisers.{i} undoes another: 1 − σ(r) and σ(r) add up to 1; leave both out",
                    code="cancels_out",
                    key=f"regularisers.{i}",
                )

    @property
    def parts(self) -> tuple[Part, ...]:
        """Everything beside reward and link."""
        weighting = () if self.weighting is None else (self.weighting,)
        return (*self.adjustments, *self.regularisers, *weighting)

    @property
    def needs_reference(self) -> bool:
        of_link = self.link is not None and self.reward.needs_reference
        return of_link or any(part.needs_reference for part in self.parts)

    @property
    def needs(self) -> frozenset[Need]:
        own: frozenset[Need] = frozenset({"scores"}) if self.labels_from_scores else frozenset()
        return needs_of(self.parts) | own

    @property
    def uses(self) -> frozenset[Use]:
        """A label made from scores leaves no room for another one, and without a link nothing can be offset."""
        preference: frozenset[Use] = frozenset() if self.needs else frozenset({"preference"})
        offset: frozenset[Use] = frozenset() if self.link is None else frozenset({"offset"})
        return preference | offset | {"weight"}

    @property
    def extras(self) -> frozenset[Extra]:
        return extras_read(self.parts)

    def __call__(self, responses: ResponseLogps, pairs: Pairs, /) -> tuple[Term, ...]:
        if self.labels_from_scores:
            pairs = pairs.with_preference(torch.sigmoid(gaps(pairs)))
        rewards = self.reward(responses)
        if "preference" in self.uses or self.labels_from_scores:
            loss = pairs.expected(lambda ordered: self._loss(rewards, responses, ordered))
        else:
            loss = self._loss(rewards, responses, pairs)  # scores say which is better
        return (Term(pairs.weight * loss, pairs.example, Divisor.EXAMPLES),)

    def _loss(self, rewards: Float[Tensor, " N"], responses: ResponseLogps, pairs: Pairs) -> Float[Tensor, " B"]:
        loss = torch.zeros_like(pairs.weight)
        if self.link is not None:
            margin = rewards[pairs.chosen] - rewards[pairs.rejected] - pairs.offset
            for adjustment in self.adjustments:
                margin = adjustment(margin, responses, pairs)
            loss = self.strength * self.link(margin)
            if self.weighting is not None:
                loss = loss * self.weighting(responses, pairs)
        for regulariser in self.regularisers:
            loss = loss + regulariser(responses, pairs)
        return loss
