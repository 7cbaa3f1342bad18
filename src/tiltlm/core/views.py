"""Index views on a forest's responses: what an objective is about, as indices and never as copies.

`Pairs` are comparisons, `Labelled` are single thumbs up and down, `Demonstrations` are responses to imitate. `of` reads
examples and the slots that `grow` returned for them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tiltlm.core.errors import DataError
from tiltlm.core.example import Example

Slots = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Counts:
    """What the terms of a loss are divided by. Added up over the packs and ranks of a step."""

    examples: int
    responses: int
    tokens: int

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.examples + other.examples, self.responses + other.responses, self.tokens + other.tokens)


@dataclass(frozen=True, eq=False)
class Pairs:
    """B comparisons, chosen ≻ rejected."""

    chosen: Int[Tensor, " B"]
    rejected: Int[Tensor, " B"]
    example: Int[Tensor, " B"]
    """Which example of the batch each comparison belongs to."""
    weight: Float[Tensor, " B"]
    """Example weight × share among the example's comparisons (shares sum to 1)."""
    preference: Float[Tensor, " B"]
    """Soft label p = P(chosen ≻ rejected)."""
    offset: Float[Tensor, " B"]
    """Subtracted from the reward difference before the link, in units of the reward."""
    num_examples: int

    @classmethod
    def of(cls, examples: Sequence[Example], slots: Slots) -> "Pairs":
        """All comparisons of these examples; an example without one is refused."""
        rows = []
        for e, (example, slot) in enumerate(zip(examples, slots, strict=True)):
            if not example.comparisons:
                raise DataError(f"{example.id}: no comparison; this objective needs chosen and rejected responses")
            total = sum(c.weight for c in example.comparisons)
            for c in example.comparisons:
                share = example.weight * c.weight / total
                rows.append((slot[c.chosen], slot[c.rejected], e, share, c.preference, c.offset))
        chosen, rejected, example_index, weight, preference, offset = zip(*rows, strict=True)
        return cls(
            chosen=torch.tensor(chosen),
            rejected=torch.tensor(rejected),
            example=torch.tensor(example_index),
            weight=torch.tensor(weight, dtype=torch.float64),
            preference=torch.tensor(preference, dtype=torch.float64),
            offset=torch.tensor(offset, dtype=torch.float64),
            num_examples=len(examples),
        )

    def counts(self) -> Counts:
        """A row with several comparisons is one example; pairs have no use for the other divisors."""
        return Counts(examples=self.num_examples, responses=0, tokens=0)


@dataclass(frozen=True, eq=False)
class Labelled:
    """B responses, each desirable or undesirable on its own."""

    response: Int[Tensor, " B"]
    desirable: Bool[Tensor, " B"]
    example: Int[Tensor, " B"]
    weight: Float[Tensor, " B"]
    num_examples: int
    baseline: float = 0.0
    """z0 of the whole step, in nats per response, no gradient; the trainer sets it where an objective has one."""

    @classmethod
    def of(cls, examples: Sequence[Example], slots: Slots) -> "Labelled":
        """Every labelled response of these examples; an example without labels is refused."""
        rows = []
        for e, (example, slot) in enumerate(zip(examples, slots, strict=True)):
            if not example.labels:
                raise DataError(f"{example.id}: no labels; this objective needs desirable and undesirable responses")
            rows += [(s, y, e, example.weight) for s, y in zip(slot, example.labels, strict=True)]
        response, desirable, example_index, weight = zip(*rows, strict=True)
        return cls(
            response=torch.tensor(response),
            desirable=torch.tensor(desirable),
            example=torch.tensor(example_index),
            weight=torch.tensor(weight, dtype=torch.float64),
            num_examples=len(examples),
        )

    def with_baseline(self, baseline: float) -> "Labelled":
        return replace(self, baseline=baseline)

    def counts(self) -> Counts:
        return Counts(examples=self.num_examples, responses=len(self.response), tokens=0)


@dataclass(frozen=True, eq=False)
class Demonstrations:
    """B responses to imitate."""

    response: Int[Tensor, " B"]
    example: Int[Tensor, " B"]
    weight: Float[Tensor, " B"]
    num_tokens: int
    """Scored tokens of all B responses together."""
    num_examples: int

    @classmethod
    def of(cls, examples: Sequence[Example], slots: Slots) -> "Demonstrations":
        """The responses to imitate: the one of a single-response row, the chosen one of a comparison."""
        rows = []
        for e, (example, slot) in enumerate(zip(examples, slots, strict=True)):
            best = sorted({c.chosen for c in example.comparisons}) or range(len(example.responses))
            rows += [(slot[k], e, example.weight, example.responses[k].num_tokens) for k in best]
        response, example_index, weight, num_tokens = zip(*rows, strict=True)
        return cls(
            response=torch.tensor(response),
            example=torch.tensor(example_index),
            weight=torch.tensor(weight, dtype=torch.float64),
            num_tokens=sum(num_tokens),
            num_examples=len(examples),
        )

    def counts(self) -> Counts:
        return Counts(examples=self.num_examples, responses=len(self.response), tokens=self.num_tokens)


View = Pairs | Labelled | Demonstrations
