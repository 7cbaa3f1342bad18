"""What a language model is asked, and what it answers, however it is reached."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["choice", "score", "predicate"]
Mode = Literal["decisions", "logprobs", "schema", "json", "regex"]

MIN_MASS = 0.5
"""Smallest probability of all labels together. Below it the model wanted to say something else."""
TOLERANCE = 1e-3
"""How far above 1 a sum of probabilities may be: servers round log-probabilities."""


@dataclass(frozen=True)
class Label:
    """One of the answers that a model may give."""

    word: str
    """Its name: what a model writes in JSON, such as `first`."""
    mark: str
    """One short sign, such as `A`: its probability is read."""
    meaning: str
    """What it says, in words."""


@dataclass(frozen=True)
class Question:
    """One question about some data."""

    kind: Kind
    data: str
    """Request and answers, each between marker lines."""
    task: str
    """What to decide. It stands after the data."""
    field: str
    """Name of the answer in JSON and on the last line: verdict, score, answer."""
    labels: tuple[Label, ...]
    """Answers whose probabilities are read."""
    grades: tuple[Label, ...] = ()
    """Answers to choose from when the model writes its answer; empty: `labels`."""
    num_draws: int = 1
    """How often a model that writes its answer is asked. The probabilities are the frequencies then."""

    @property
    def written(self) -> tuple[Label, ...]:
        """Answers that a model may write."""
        return self.grades or self.labels


@dataclass(frozen=True)
class Reply:
    """The answer to one question; or why there is none."""

    word: str = ""
    """The label: the most probable one, or the one that was written."""
    probabilities: Mapping[str, float] | None = None
    """Word → probability, with sum 1; None if the model wrote its answer once."""
    label_mass: float | None = None
    """Probability of all labels together, before they were normalised."""
    error: str = ""
    raw: str = ""
    rationale: str = ""
    finish_reason: str = ""
    mode: str = ""
    model: str = ""
    cost: float | None = 0.0
    tokens_in: int = 0
    tokens_out: int = 0
    latency: float = 0.0
    attempt: int = 1


def read_masses(masses: Mapping[str, float]) -> Reply:
    """Return the reply that the probabilities of labels give.

    Args:
        masses: Word → probability, not normalised.

    Returns:
        The normalised probabilities. An error if one of them is no probability, or if all together are below
        `MIN_MASS`: then the model wanted to say something else.
    """
    total = math.fsum(masses.values())
    if not all(math.isfinite(mass) and mass >= 0 for mass in masses.values()) or total > 1 + TOLERANCE:
        return Reply(error=f"the probabilities of the labels are none: {dict(masses)}")
    if total < MIN_MASS:
        return Reply(
            error=f"all labels together have probability {total:.3g}; below {MIN_MASS:g} the model wanted to say "
            "something else",
            label_mass=total,
        )
    probabilities = {word: mass / total for word, mass in masses.items()}
    best = max(probabilities, key=lambda word: probabilities[word])
    return Reply(word=best, probabilities=probabilities, label_mass=min(total, 1.0))


class Asker(ABC):
    """A language model that answers questions: one in this process, or a server."""

    name: str
    """Name of the model."""
    digest: str
    """Hash of everything about the model that its answers depend on."""
    weights: str = ""
    """Digest of its weights; "" if they are not here."""
    is_sampled: bool = False
    """True if the same question may get another answer when it is asked again."""
    special_tokens: tuple[str, ...] = ()
    """Texts of the model's special tokens. They are taken out of the data."""

    @abstractmethod
    def ask(self, groups: Iterable[Sequence[Question]]) -> Iterator[tuple[Reply, ...]]:
        """Yield the replies to each group of questions, in order. The questions of a group have the same data."""

    def price(self, tokens_in: int, tokens_out: int) -> float | None:  # noqa: ARG002
        """Return what this many tokens cost; None if the price is not known."""
        return 0.0
