"""Comparisons as data: chosen ≻ rejected. DPO, IPO, SimPO and similar methods differ only in reward and link."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from tiltlm.core import ConfigError, Pairs, Responses
from tiltlm.core.checks import positive
from tiltlm.core.logps import Extra
from tiltlm.core.needs import Need, Shape, Use
from tiltlm.links import Link, Sigmoid
from tiltlm.objectives.parts.adjustments import Adjustment, gaps
from tiltlm.objectives.parts.base import Part
from tiltlm.objectives.parts.regularisers import Anchor, Regulariser
from tiltlm.objectives.parts.weightings import Weighting
from tiltlm.objectives.shapes.base import ObjectiveBase
from tiltlm.objectives.terms import Divisor, Term
from tiltlm.rewards import Reward


@dataclass(frozen=True)
class Pairwise(ObjectiveBase):
    """ℓ = strength·weighting·link(u) + Σ regularisers, u = r(chosen) − r(rejected) − offset, then adjusted.

    One loss per comparison, weighted, divided by the examples of the step. With a soft label p it is
    p·ℓ(chosen ≻ rejected) + (1 − p)·ℓ(rejected ≻ chosen).
    """

    reward: Reward
    link: Link | None
    """None: the loss is the regularisers only, and the reward is only logged."""
    adjustments: tuple[Adjustment, ...] = ()
    """Change the margin before the link, in this order."""
    regularisers: tuple[Regulariser, ...] = ()
    """Added to the link's term."""
    weighting: Weighting | None = None
    """Multiplies the link's term."""
    strength: float = 1.0
    """Weight of the link's term relative to the regularisers."""
    labels_from_scores: bool = False
    """True: the soft label is p = σ(score_w − score_l), not the data's `preference`."""
    view: ClassVar[type[Pairs]] = Pairs
    shape: ClassVar[Shape] = "pairs"

    def __post_init__(self) -> None:
        positive(strength=self.strength)
        if self.link is None and (self.adjustments or self.weighting or self.strength != 1.0):
            raise ConfigError(
                "link is null, so there is no margin to adjust or weight; give a link, or remove adjustments, "
                "weighting and strength",
                code="needs_link",
                key="link",
            )
        if self.link is None and not self.regularisers:
            raise ConfigError(
                "link is null and there are no regularisers, so the loss would be 0; give one of them",
                code="zero_loss",
                key="link",
            )
        if self.labels_from_scores and any(adjustment.needs for adjustment in self.adjustments):
            raise ConfigError(
                "labels_from_scores makes soft labels of the scores, and an adjustment makes a margin of them; "
                "remove one of the two",
                code="conflict",
                key="labels_from_scores",
            )
        self._check_repeated()

    def _check_repeated(self) -> None:
        """Raise an error if a part is given twice, or if two parts cancel each other."""
        for key, parts in (("adjustments", self.adjustments), ("regularisers", self.regularisers)):
            for i, part in enumerate(parts):
                if part in parts[:i]:
                    raise ConfigError(
                        f"{key}.{i} repeats an earlier part; give it once, with twice the weight",
                        code="duplicate",
                        key=f"{key}.{i}",
                    )
        for i, part in enumerate(self.regularisers):
            if not isinstance(part, Anchor) or not isinstance(part.link, Sigmoid):
                continue
            if replace(part, sign=-part.sign) in self.regularisers[:i]:
                raise ConfigError(
                    f"regularisers.{i} cancels an earlier one, because 1 − σ(r) and σ(r) add up to 1; remove both",
                    code="cancels_out",
                    key=f"regularisers.{i}",
                )

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """All parts beside reward and link."""
        weighting = () if self.weighting is None else (self.weighting,)
        return (*self.adjustments, *self.regularisers, *weighting)

    @cached_property
    def needs_reference(self) -> bool:
        """True if the reward, where a link reads it, or a part compares the policy with a reference."""
        of_link = self.link is not None and self.reward.needs_reference
        return of_link or any(part.needs_reference for part in self.parts)

    @cached_property
    def needs(self) -> frozenset[Need]:
        """Columns that a part or `labels_from_scores` reads."""
        own: frozenset[Need] = frozenset({"scores"}) if self.labels_from_scores else frozenset()
        return own.union(*(part.needs for part in self.parts))

    @cached_property
    def uses(self) -> frozenset[Use]:
        """`weight`; `preference` unless scores give the labels; `offset` if there is a link."""
        preference: frozenset[Use] = frozenset() if self.needs else frozenset({"preference"})
        offset: frozenset[Use] = frozenset() if self.link is None else frozenset({"offset"})
        return preference | offset | {"weight"}

    @cached_property
    def extras(self) -> frozenset[Extra]:
        """Numbers per token that the parts read."""
        return frozenset[Extra]().union(*(part.extras for part in self.parts))

    def __call__(self, responses: Responses, pairs: Pairs, /) -> tuple[Term, ...]:
        """Return the weighted loss of each comparison."""
        if self.labels_from_scores:
            pairs = pairs.with_preference(torch.sigmoid(gaps(pairs)))
        rewards = self.reward(responses)
        if "preference" in self.uses or self.labels_from_scores:
            loss = pairs.expected(lambda ordered: self._loss(rewards, responses, ordered))
        else:
            loss = self._loss(
                rewards, responses, pairs
            )  # the scores decide which response is chosen: there is no soft label
        return (Term(pairs.weight * loss, pairs.example, Divisor.EXAMPLES),)

    def _loss(self, rewards: Float[Tensor, " N"], responses: Responses, pairs: Pairs) -> Float[Tensor, " B"]:
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
