"""Index views on a forest's responses: an objective gets indices into the responses, not copies of them.

`Pairs` are comparisons, `UnpairedResponses` single labels, `Lists` ranked or scored lists, `Demonstrations` responses
to imitate, `Rollouts` samples of the policy with their advantages. `of` reads examples and their slots, the response
indices that `build_trees` returns for them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import nan

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from tiltlm.core.errors import DataError
from tiltlm.core.example import Example

FloatArray = NDArray[np.floating]
Slots = Sequence[Sequence[int]]
"""Per example, the index of each of its responses in the forest."""


@dataclass(frozen=True)
class Counts:
    """Divisors of the terms of a loss, summed over the packs and ranks of a step."""

    examples: int
    responses: int
    tokens: int

    def __add__(self, other: "Counts") -> "Counts":
        """Add the counts of other examples."""
        return Counts(self.examples + other.examples, self.responses + other.responses, self.tokens + other.tokens)

    def __or__(self, other: "Counts") -> "Counts":
        """Combine two views' counts of the same examples; a view counts only what its objective divides by."""
        return Counts(
            max(self.examples, other.examples), max(self.responses, other.responses), max(self.tokens, other.tokens)
        )


@dataclass(frozen=True, eq=False)
class Pairs:
    """B comparisons, chosen ≻ rejected."""

    chosen: Int[Tensor, " B"]
    rejected: Int[Tensor, " B"]
    example: Int[Tensor, " B"]
    """Index of the example in the batch that each comparison belongs to."""
    weight: Float[Tensor, " B"]
    """Example weight × share among the example's comparisons (shares sum to 1)."""
    preference: Float[Tensor, " B"]
    """Soft label p = P(chosen ≻ rejected)."""
    offset: Float[Tensor, " B"]
    """Subtracted from the reward difference before the link, in units of the reward."""
    num_examples: int
    gap: Float[Tensor, " B"] | None = None
    """Score of the chosen response minus that of the rejected one, in units of the data; None if not known."""
    is_certain: bool = False
    """True if every preference is known to be 1."""

    @classmethod
    def of(cls, examples: Sequence[Example], slots: Slots) -> "Pairs":
        """Return all comparisons of these examples.

        Raises:
            DataError: An example has none.
        """
        rows = []
        for e, (example, slot) in enumerate(zip(examples, slots, strict=True)):
            if not example.comparisons:
                raise DataError(
                    f"{example.id}: there is no comparison; this objective needs chosen and rejected responses",
                    code="needs_pairs",
                    row=example.id,
                )
            total = sum(c.weight for c in example.comparisons)
            for c in example.comparisons:
                share = example.weight * c.weight / total
                gap = example.scores[c.chosen] - example.scores[c.rejected] if example.scores else nan
                rows.append((slot[c.chosen], slot[c.rejected], e, share, c.preference, c.offset, gap))
        chosen, rejected, example_index, *numbers = zip(*rows, strict=True)
        weight, preference, offset, gaps = (torch.tensor(column, dtype=torch.float64) for column in numbers)
        return cls(
            chosen=torch.tensor(chosen),
            rejected=torch.tensor(rejected),
            example=torch.tensor(example_index),
            weight=weight,
            preference=preference,
            offset=offset,
            num_examples=len(examples),
            gap=None if any(not example.scores for example in examples) else gaps,
            is_certain=all(row[4] == 1.0 for row in rows),
        )

    def with_preference(self, preference: Float[Tensor, " B"]) -> "Pairs":
        """Return the same comparisons with these soft labels."""
        return replace(self, preference=preference, is_certain=False)

    @property
    def reversed(self) -> "Pairs":
        """The same comparisons with chosen and rejected exchanged."""
        return replace(
            self,
            chosen=self.rejected,
            rejected=self.chosen,
            preference=1 - self.preference,
            offset=-self.offset,
            gap=None if self.gap is None else -self.gap,
            is_certain=False,
        )

    def expected(self, loss: Callable[["Pairs"], Float[Tensor, " B"]]) -> Float[Tensor, " B"]:
        """Return p·loss(chosen ≻ rejected) + (1 − p)·loss(rejected ≻ chosen), the meaning of a soft label p."""
        if self.is_certain:
            return loss(self)
        return self.preference * loss(self) + (1 - self.preference) * loss(self.reversed)

    def counts(self) -> Counts:
        """Count the examples; an example with several comparisons counts once. The other divisors are not used."""
        return Counts(examples=self.num_examples, responses=0, tokens=0)

    def with_baseline(self, baseline: float) -> "Pairs":
        """Return the view itself: it uses no statistic of the step."""
        assert not baseline
        return self


@dataclass(frozen=True, eq=False)
class UnpairedResponses:
    """B responses, each labelled desirable or undesirable."""

    response: Int[Tensor, " B"]
    desirable: Bool[Tensor, " B"]
    example: Int[Tensor, " B"]
    weight: Float[Tensor, " B"]
    num_examples: int
    baseline: float = 0.0
    """The statistic's value for the whole step, without gradient, in the statistic's unit; set by the trainer."""

    @classmethod
    def of(cls, examples: Sequence[Example], slots: Slots) -> "UnpairedResponses":
        """Return every response of these examples with its label.

        Raises:
            DataError: An example has no labels.
        """
        rows = []
        for e, (example, slot) in enumerate(zip(examples, slots, strict=True)):
            if not example.labels:
                raise DataError(
                    f"{example.id}: there are no labels; this objective needs desirable and undesirable responses",
                    code="needs_unpaired",
                    row=example.id,
                )
            rows += [(s, y, e, example.weight) for s, y in zip(slot, example.labels, strict=True)]
        response, desirable, example_index, weight = zip(*rows, strict=True)
        return cls(
            response=torch.tensor(response),
            desirable=torch.tensor(desirable),
            example=torch.tensor(example_index),
            weight=torch.tensor(weight, dtype=torch.float64),
            num_examples=len(examples),
        )

    def with_baseline(self, baseline: float) -> "UnpairedResponses":
        """Return the same responses with this value of the step's statistic."""
        return replace(self, baseline=baseline)

    def counts(self) -> Counts:
        """Count examples and responses."""
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
        """Return the responses to imitate: all of an example without comparisons, else every chosen one."""
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
        """Count examples, responses and scored tokens."""
        return Counts(examples=self.num_examples, responses=len(self.response), tokens=self.num_tokens)

    def with_baseline(self, baseline: float) -> "Demonstrations":
        """Return the view itself: it uses no statistic of the step."""
        assert not baseline
        return self


@dataclass(frozen=True, eq=False)
class Lists:
    """E lists of up to K responses with ranks or scores, best first; shorter lists are padded."""

    response: Int[Tensor, "E K"]
    """Index of each response; 0 at padding."""
    present: Bool[Tensor, "E K"]
    """False at padding."""
    rank: Int[Tensor, "E K"]
    """1, 2, … from the best; equal ranks are ties. 0 at padding."""
    score: Float[Tensor, "E K"]
    """Higher is better; NaN if not known."""
    weight: Float[Tensor, " E"]
    example: Int[Tensor, " E"]
    ties: tuple[tuple[int, int, int], ...]
    """(list, first column, end column) of every group of equal ranks, except a group that is last in its list."""
    num_examples: int

    @classmethod
    def of(cls, examples: Sequence[Example], slots: Slots) -> "Lists":
        """Return the responses of each example in order of rank, or of falling score if there are no ranks.

        Raises:
            DataError: An example has neither.
        """
        width = max(len(slot) for slot in slots)
        response = torch.zeros(len(examples), width, dtype=torch.long)
        rank, score = torch.zeros_like(response), torch.full(response.shape, nan, dtype=torch.float64)
        ties = []
        for e, (example, slot) in enumerate(zip(examples, slots, strict=True)):
            if not example.ranks and not example.scores:
                raise DataError(
                    f"{example.id}: there are neither ranks nor scores; this objective needs lists with one of them",
                    code="needs_lists",
                    row=example.id,
                )
            ranks = example.ranks or tuple(1 + sum(b > a for b in example.scores) for a in example.scores)
            order = sorted(range(len(slot)), key=lambda k: ranks[k])
            response[e, : len(slot)] = torch.tensor([slot[k] for k in order])
            rank[e, : len(slot)] = torch.tensor([ranks[k] for k in order])
            if example.scores:
                score[e, : len(slot)] = torch.tensor([example.scores[k] for k in order], dtype=torch.float64)
            ties += [(e, start, end) for start, end in _groups([ranks[k] for k in order]) if end - start > 1]
        return cls(
            response=response,
            present=rank > 0,
            rank=rank,
            score=score,
            weight=torch.tensor([e.weight for e in examples], dtype=torch.float64),
            example=torch.arange(len(examples)),
            ties=tuple(ties),
            num_examples=len(examples),
        )

    def counts(self) -> Counts:
        """Count the examples; the other divisors are not used."""
        return Counts(examples=self.num_examples, responses=0, tokens=0)

    def with_baseline(self, baseline: float) -> "Lists":
        """Return the view itself: it uses no statistic of the step."""
        assert not baseline
        return self


def _groups(ranks: Sequence[int]) -> list[tuple[int, int]]:
    """Return the bounds of the runs of equal ranks in a sorted sequence, without the last run."""
    starts = [i for i, rank in enumerate(ranks) if i == 0 or rank != ranks[i - 1]]
    return list(pairwise(starts))


@dataclass(frozen=True, eq=False)
class Rollouts:
    """B samples of the policy with M scored tokens in all. Samples with equal tokens keep each their own rows."""

    response: Int[Tensor, " B"]
    example: Int[Tensor, " B"]
    weight: Float[Tensor, " B"]
    advantage: Float[Tensor, " B"]
    sample: Int[Tensor, " M"]
    """Sample that each token belongs to; ascending."""
    place: Int[Tensor, " M"]
    """Place of each token among the scored tokens of its sample, from 0."""
    old_logps: Float[Tensor, " M"] | None
    """Log-probability of each token when the round began; None: the policy has not moved since."""
    is_drawn: Bool[Tensor, " B"]
    """False for a sample that another one than the policy drew."""
    correction: Float[Tensor, " M"] | None
    """Factor of the loss of each token; None: 1."""
    old_values: Float[Tensor, " M"] | None
    """Value of each token's prefix when the round began, as the critic then said; None: the critic is as it was."""
    num_examples: int

    @classmethod
    def of(cls, examples: Sequence[Example], slots: Slots) -> "Rollouts":
        """Return every sample of these examples with its advantage.

        Raises:
            DataError: An example has no advantages.
        """
        rows = []
        for e, (example, slot) in enumerate(zip(examples, slots, strict=True)):
            if not example.credits:
                raise DataError(
                    f"{example.id}: there are no advantages; this objective trains on samples that `tiltlm loop` draws",
                    code="needs_rollouts",
                    row=example.id,
                )
            own = zip(slot, example.credits, example.responses, strict=True)
            rows += [(s, e, example.weight, credit, answer) for s, credit, answer in own]
        response, example_index, weight, credits, answers = zip(*rows, strict=True)
        lengths = torch.tensor([answer.num_tokens for answer in answers])
        sample = torch.repeat_interleave(torch.arange(len(rows)), lengths)
        return cls(
            response=torch.tensor(response),
            example=torch.tensor(example_index),
            weight=torch.tensor(weight, dtype=torch.float64),
            advantage=torch.tensor([credit.advantage for credit in credits], dtype=torch.float64),
            sample=sample,
            place=torch.arange(len(sample)) - (torch.cumsum(lengths, 0) - lengths)[sample],
            old_logps=_joined([credit.old_logps for credit in credits]),
            is_drawn=torch.tensor([credit.is_drawn for credit in credits]),
            correction=_joined([credit.correction for credit in credits]),
            old_values=_joined([credit.old_values for credit in credits]),
            num_examples=len(examples),
        )

    def counts(self) -> Counts:
        """Count examples, samples and their scored tokens, without those whose factor is 0."""
        num_tokens = int(self.is_credited.sum())
        return Counts(examples=self.num_examples, responses=len(self.response), tokens=num_tokens)

    @property
    def is_last(self) -> Bool[Tensor, " M"]:
        """True for the last token of each sample."""
        return torch.cat([self.sample[1:] != self.sample[:-1], self.sample.new_ones(1, dtype=torch.bool)])

    @property
    def is_credited(self) -> Bool[Tensor, " M"]:
        """False for a token that a correction leaves out."""
        return torch.ones_like(self.sample, dtype=torch.bool) if self.correction is None else self.correction != 0

    @property
    def num_credited(self) -> Int[Tensor, " B"]:
        """Tokens of each sample that count."""
        return torch.zeros_like(self.response).index_add(0, self.sample, self.is_credited.long())

    def with_baseline(self, baseline: float) -> "Rollouts":
        """Return the view itself: it uses no statistic of the step."""
        assert not baseline
        return self


def _joined(parts: Sequence[FloatArray | None]) -> Float[Tensor, " M"] | None:
    """Return numbers per token of all samples as one float64 vector; None if no sample has them."""
    known = [part for part in parts if part is not None]
    assert len(known) in (0, len(parts)), "all samples of a step have them, or none"
    return torch.from_numpy(np.concatenate(known).astype(np.float64)) if known else None


@dataclass(frozen=True, eq=False)
class Views:
    """Several views on the same examples, for a weighted sum of objectives."""

    parts: tuple["View", ...]

    def counts(self) -> Counts:
        """Combine the counts of all views."""
        total = Counts(0, 0, 0)
        for part in self.parts:
            total |= part.counts()
        return total

    def with_baseline(self, baseline: float) -> "Views":
        """Return the views with this statistic in those of unpaired responses."""
        return Views(tuple(p.with_baseline(baseline) if isinstance(p, UnpairedResponses) else p for p in self.parts))


View = Pairs | UnpairedResponses | Lists | Demonstrations | Rollouts | Views
