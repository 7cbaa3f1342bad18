"""What every judge is: a scorer of single responses, or a comparer of two.

A judge that fails on an item says so (`error`). A failure never becomes a number, and never a tie.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Role = Literal["train", "held_out"]
"""`train` judges make data to train on. `held_out` judges only measure. One judge never has both roles in a run."""

Prompt = str | tuple[Mapping[str, Any], ...]
"""Text, or the turns of a conversation (`role`, `content`) up to the response."""

Outcome = Literal["left_strong", "left", "tie", "right", "right_strong", "both_bad", "error"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

MAX_ERRORS = 0.05
"""Largest share of judgements that may fail; above it, a result would be one of the easy cases."""

Order = Literal["ab", "ba"]
"""Which response was shown first."""


@dataclass(frozen=True)
class Item:
    """A response to be scored."""

    prompt: Prompt
    response: str
    """Text without special tokens."""
    row: Mapping[str, Any] = field(default_factory=dict)
    """Other columns of its row, such as the right answer that a verifier reads."""
    ended: bool = True
    """False if the response was cut."""


@dataclass(frozen=True)
class PairItem:
    """Two responses to one prompt, to be compared."""

    prompt: Prompt
    a: str
    b: str
    row: Mapping[str, Any] = field(default_factory=dict)
    ended: tuple[bool, bool] = (True, True)
    """False for a response that was cut."""
    models: tuple[str, str] = ("", "")
    """Who wrote a and b, for the record. No judgement depends on it, and no judge is shown it."""

    @property
    def swapped(self) -> "PairItem":
        """The same two responses, exchanged."""
        ended, models = (self.ended[1], self.ended[0]), (self.models[1], self.models[0])
        return PairItem(self.prompt, self.b, self.a, self.row, ended, models)


@dataclass(frozen=True)
class Score:
    """The score of one response, higher is better; or the reason why there is none."""

    value: float | None
    """In units of the judge; None if it failed."""
    error: str = ""
    """What went wrong, as one sentence; "" if nothing did."""
    cost: float | None = 0.0
    """What this call cost, in the currency of the price file; None if the price is not known."""
    tokens_in: int = 0
    tokens_out: int = 0
    cached: bool = False
    raw: str = ""
    """What the judge answered, if it answers in text."""


@dataclass(frozen=True)
class Verdict:
    """One judgement of two responses in one order. `left` is the response that was shown first."""

    order: Order
    outcome: Outcome
    p_left: float | None = None
    """Probability that the first one shown is better, ties counted ½; None if the judge gives no probability."""
    p_tie: float | None = None
    """Part of that probability mass which was on a tie; None if the judge gives none."""
    label_mass: float | None = None
    """Probability of all labels together, before they were normalised."""
    error: str = ""
    raw: str = ""
    rationale: str = ""
    finish_reason: str = ""
    mode: str = ""
    """How the verdict was read: scores, decisions, logprobs, schema, json or regex."""
    model: str = ""
    template: str = ""
    """Name and version of the template."""
    cost: float | None = 0.0
    tokens_in: int = 0
    tokens_out: int = 0
    latency: float = 0.0
    """Seconds."""
    attempt: int = 1
    cached: bool = False
    disagreement: float | None = None
    """Of a panel: the largest difference between the probabilities of two members."""

    @property
    def p_a(self) -> float | None:
        """Probability that response a is better: `p_left`, or 1 − `p_left` if b was shown first."""
        if self.p_left is None:
            return None
        return self.p_left if self.order == "ab" else 1 - self.p_left


class Judge(ABC):
    """A scorer or a comparer. Its digest names everything that its judgements depend on."""

    name: str
    """Short name, for tables."""
    role: Role
    digest: str
    """Hash of kind, weights or model and revision, template, rubric and sampling. Judgements are cached by it."""
    reads: tuple[str, ...] | None = ()
    """Columns of the row that change a judgement; None: all of them."""
    keeps_judgements: bool = False
    """True if the judge stores what it said itself, so that the cache of judgements must not."""
    scale: float = 1.0
    """Difference of two scores that is one nat of preference, for scorers that are used as comparers."""

    def price(self, tokens_in: int, tokens_out: int) -> float | None:  # noqa: ARG002
        """Return what this many tokens cost, in the currency of the price file; None if the price is not known."""
        return 0.0


class Scorer(Judge):
    """Scores one response at a time: reward model, verifier, rubric, grade, implicit reward."""

    @abstractmethod
    def score(self, items: Iterable[Item]) -> Iterator[Score]:
        """Yield a score for each item, in order."""


class Comparer(Judge):
    """Compares two responses at a time, in the order given: a is shown first, so `Verdict.order` is `ab`."""

    scales_logits: bool = False
    """True if `scale` divides the logits of its probabilities: calibration, applied to what the cache has, too."""

    @abstractmethod
    def compare(self, pairs: Iterable[PairItem]) -> Iterator[Verdict]:
        """Yield one verdict for each pair, in order."""
