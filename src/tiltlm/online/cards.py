"""Cards: what one round drew, how it was judged, what was trained, and how far the policy is from where it began."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tiltlm.diagnostics.kl import sequence_kl
from tiltlm.estimates.intervals import Interval, bootstrap_mean
from tiltlm.online.ledger import Tokens
from tiltlm.sampling.answers import AnswerRow
from tiltlm.sampling.diversity import diversity_of

RESAMPLES = 1000
INTERVALS = ("reward", "held_out", "kl", "agreement")
"""Fields of a card that are intervals."""
ONLY_LEARNED = ("labels", "agreement", "judge_diverged")
"""Fields of a card that are None without a learned judge."""
OWN: Mapping[str, Any] = {}
"""Facts about the own sampler: nothing has to be said about it."""


@dataclass(frozen=True)
class Lesson:
    """What a learned judge learned in one round."""

    judge: str
    """Its digest after the round."""
    last_step: int
    """Its optimiser steps up to then."""
    agrees: tuple[bool | None, ...]
    """For each bought label, whether the learned judge predicted it; None if either of the two sees a tie."""
    diverged: bool
    """True if its loss, weights or scores became NaN or infinite, and it is as it was before the round."""


@dataclass(frozen=True)
class Card:
    """One round in numbers. The samples were drawn before the round trained on them."""

    round: int
    num_prompts: int
    num_samples: int
    reward: Interval | None
    """Mean score of the samples, by the judge that makes the examples; None if it compares. With a learned judge, that
    of the bought pairs by the judge it learns from."""
    held_out: Interval | None
    """The same by a judge that does not train; None if there is none."""
    kl: Interval | None
    """KL of the policy that drew them to the policy before the first round, nats per response (k1); None if they were
    drawn at another temperature or truncated."""
    num_tokens: float
    """Mean length of a sample."""
    cut: float
    """Share of samples that were cut."""
    distinct_2: float
    entropy: float
    """Mean of −log π, nats per token."""
    num_examples: int
    dropped: Mapping[str, int]
    """Prompts without an example, by cause."""
    statuses: Mapping[str, int]
    """Judgements by status."""
    judgements: int
    """Judgements of the round, also those that were stored already."""
    sampled_tokens: int
    """Tokens of all samples, also those of rivals, critiques and revisions."""
    prompt_tokens: int
    """Tokens of the prompts, once for each draw of samples."""
    forward_tokens: int
    """Tokens that were read without gradient: for the KL, by the reference, by the policy when the round began."""
    train_tokens: int
    """Tokens that the steps read, each prompt once a step."""
    flops: float
    """Floating-point operations, 2 for each weight and token read or drawn and 6 for each token trained on (8 if the
    forward is computed again), without attention over the context and without the judge."""
    cost: float | None
    """What the judges cost, also one that does not train, in the currency of the price file; None if a price is not
    known."""
    num_steps: int
    """Optimiser steps of the round."""
    loss: float | None
    """Mean loss of the records of its steps; None without a step."""
    engine: str = "own"
    """What drew the samples."""
    exact: bool = True
    """True if the same weights and settings draw the same samples again."""
    missing: Mapping[str, int] = field(default_factory=dict)
    """Samples that the engine did not give in a usable form, by cause."""
    probe: float | None = None
    """Mean |log-probability by the server − by the policy| over the probe, nats a token; None without a server."""
    mismatch: float | None = None
    """The same over the first samples of the round; None if they were not compared."""
    mismatch_max: float | None = None
    """Its largest value over tokens."""
    kl_coef: float | None = None
    """KL coefficient of the round, where `loop.kl_target` steers it."""
    effective: float | None = None
    """Effective number of the samples that another distribution drew, as a share of all; None without corrections."""
    labels: int | None = None
    """Pairs that the judge labelled for a learned judge; `reward`, `statuses` and `judgements` are of them alone. None
    without a learned judge."""
    agreement: Interval | None = None
    """Share of these labels that the learned judge predicted before it learned from them, ties left out."""
    judge_diverged: bool | None = None
    """True if the learned judge diverged in this round, so that its last good version made the examples."""

    def as_dict(self) -> dict[str, Any]:
        """Return the card as plain values."""
        return asdict(self)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Card":
        """Return the card of plain values, as JSON has them: NaN is text there."""
        intervals = {name: values.get(name) and Interval(**_numbers(values[name])) for name in INTERVALS}
        return cls(**{**_numbers(values), **intervals, "engine": values["engine"]})


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with NaN and infinities as numbers, which are text in JSON."""
    return {
        name: float(value) if isinstance(value, str) and name != "engine" else value for name, value in values.items()
    }


def reward_of(scores: Mapping[str, ArrayLike], seed: int = 0) -> Interval | None:
    """Return the mean score over samples, prompts weighing equally, with an interval over prompts.

    Args:
        scores: Name of a prompt → scores of its samples, NaN where there is none.
        seed: Seed of the bootstrap over prompts.
    """
    numbers = {name: np.asarray(own, dtype=np.float64) for name, own in scores.items()}
    known = {name: float(np.nanmean(own)) for name, own in numbers.items() if np.isfinite(own).any()}
    if not known:
        return None
    return bootstrap_mean(list(known.values()), list(known), seed=seed, resamples=RESAMPLES)


def agreement_of(agrees: Sequence[bool | None], seed: int = 0) -> Interval | None:
    """Return the share of labels that were predicted, ties (None) left out; None if all are ties."""
    known = [float(one) for one in agrees if one is not None]
    names = [str(place) for place in range(len(known))]
    return bootstrap_mean(known, names, seed=seed, resamples=RESAMPLES) if known else None


def kl_of(rows: Sequence[AnswerRow], initial: Sequence[float], seed: int = 0) -> Interval | None:
    """Return the KL of samples to the policy before the first round; None if they are no draws of the policy itself.

    Args:
        rows: The samples.
        initial: [M] log-probability of each under the policy before the first round, in the order of the rows.
        seed: Seed of the bootstrap over prompts.
    """
    if not all(row.has_own_distribution and row.logps for row in rows):
        return None
    logps = [logp for row in rows for logp in row.logps or ()]
    prompts = [row.id for row in rows for _ in row.answers]
    ended = [end for row in rows for end in row.ended]
    return sequence_kl(logps, initial, prompts, temperature=1.0, ended=ended, allow_cut=True, seed=seed).k1


def steered(coef: float, cards: Sequence[Card], target: float, horizon: int) -> float:
    """Return the KL coefficient of the round after these, steered toward a KL.

    After each round it is multiplied by 1 + clip(KL/target − 1, −0.2, 0.2) · samples/horizon. It follows from the cards
    alone, so a loop that goes on needs no state for it.

    Source: Ziegler et al. 2019, arXiv 1909.08593, section 2.2.

    Args:
        coef: The coefficient of the first round.
        cards: The cards of all rounds before.
        target: KL to the policy before the first round, nats per response.
        horizon: Samples after which a KL far from the target has changed the coefficient by a fifth.
    """
    for card in cards:
        if card.kl is not None and np.isfinite(card.kl.estimate):
            error = float(np.clip(card.kl.estimate / target - 1, -0.2, 0.2))
            coef *= 1 + error * card.num_samples / horizon
    return coef


def make_card(
    number: int,
    rows: Sequence[AnswerRow],
    initial: Sequence[float] | None,
    *,
    scores: Mapping[str, ArrayLike],
    held_out: Interval | None,
    num_examples: int,
    dropped: Mapping[str, int],
    statuses: Mapping[str, int],
    num_steps: int,
    losses: Sequence[float],
    tokens: Tokens,
    num_weights: int,
    recomputes: bool,
    cost: float | None,
    engine: Mapping[str, Any] = OWN,
    kl_coef: float | None = None,
    effective: float | None = None,
    learned: Lesson | None = None,
) -> Card:
    """Measure one round.

    Args:
        number: The round, from 0.
        rows: Its samples.
        initial: Log-probabilities of the samples under the policy before the first round; None if another policy drew
            them, whose KL says nothing about this one.
        scores: Name of a prompt → scores of its samples by the judge that makes the examples; empty if it compares.
        held_out: Mean score by a judge that does not train; None if there is none.
        num_examples: Examples that were trained on.
        dropped: Prompts without an example, by cause.
        statuses: Judgements by status.
        num_steps: Optimiser steps of the round.
        losses: The loss of each record of the round.
        tokens: What the models read and drew.
        num_weights: Weights of the policy without its input embedding.
        recomputes: True if the forward is computed again in the backward pass.
        cost: What the judge cost; None if a price is not known.
        engine: Fields of the card about the engine; empty for the own sampler.
        kl_coef: KL coefficient of the round, if it is steered.
        effective: Effective number of samples as a share of all, if there are corrections.
        learned: What a learned judge learned; None without one.
    """
    lengths = [len(ids) for row in rows for ids in row.token_ids or ()]
    diversity = diversity_of(rows)
    return Card(
        round=number,
        num_prompts=len(rows),
        num_samples=len(lengths),
        reward=reward_of(scores),
        held_out=held_out,
        kl=None if initial is None else kl_of(rows, initial),
        num_tokens=float(np.mean(lengths)),
        cut=diversity.cut,
        distinct_2=diversity.distinct_2,
        entropy=diversity.entropy,
        num_examples=num_examples,
        dropped=dict(dropped),
        statuses=dict(statuses),
        judgements=sum(statuses.values()),
        sampled_tokens=tokens.sampled,
        prompt_tokens=tokens.prompts,
        forward_tokens=tokens.forward,
        train_tokens=tokens.trained,
        flops=tokens.flops(num_weights, recomputes=recomputes),
        cost=cost,
        num_steps=num_steps,
        loss=float(np.mean(losses)) if losses else None,
        **engine,
        kl_coef=kl_coef,
        effective=effective,
        labels=None if learned is None else len(learned.agrees),
        agreement=None if learned is None else agreement_of(learned.agrees),
        judge_diverged=None if learned is None else learned.diverged,
    )
