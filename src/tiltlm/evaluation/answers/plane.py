"""Policies on the plane of KL and reward, beside best-of-n and the frontier of the policy that they started from.

KL is measured on each policy's own samples at temperature 1, to the policy before training. A scorer gives a reward and
a win rate against samples of that policy; a comparer gives the win rate alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from tiltlm.core import ConfigError
from tiltlm.diagnostics import Interval, SequenceKL, bootstrap_mean, mean_of_repetitions, paired_difference, sequence_kl
from tiltlm.diagnostics.attainment import AttainmentCurve
from tiltlm.diagnostics.comparing.win_rate import win_rate
from tiltlm.diagnostics.pools import (
    BestOfN,
    attained_shares,
    best_of_n_win_rates,
    measure_best_of_n,
    measure_tilt,
    reward_at,
)
from tiltlm.evaluation.answers.loop_curve import LoopCurve

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PolicySamples:
    """What is known of one policy's samples, prompt by prompt."""

    name: str
    knobs: Mapping[str, Any]
    """The settings that were varied, with the values of this policy, without the seed."""
    step: int | None
    """Step of a checkpoint; None for the trained policy."""
    logps: Floats
    """[P, n] log-probability of each sample under the policy that drew it, nats per response."""
    ref_logps: Floats
    """[P, n] the same under the policy before training."""
    ended: NDArray[np.bool_]
    """[P, n] False where a sample was cut."""
    num_tokens: Floats
    """[P, n] tokens of each sample."""
    scores: Floats | None
    """[P, n] scores; None with a judge that compares."""
    wins: Floats
    """[P] P(better than a sample of the policy before training), ties ½; NaN where no judgement succeeded."""

    @property
    def kl_by_prompt(self) -> Floats:
        """[P] mean log-ratio of the samples: the estimate of the KL at each prompt."""
        found: Floats = (self.logps - self.ref_logps).mean(1)
        return found


@dataclass(frozen=True)
class PolicyPoint:
    """One point of the plane. With several seeds, numbers are means over them with Student's interval."""

    name: str
    knobs: Mapping[str, Any]
    step: int | None
    """Step of a checkpoint; None for trained policies."""
    num_seeds: int
    kl: Interval
    """Sequence KL to the policy before training, nats per response."""
    kl_k3: Interval
    """The same by an estimator that is never negative. If the two differ much, the samples are too few."""
    win_rate: Interval
    """Against the policy before training, ties ½."""
    length: Interval
    """Tokens of a response."""
    cut_share: float
    """Share of samples that were cut. Above 0, KL and length are those of the texts up to the cut."""
    reward: Interval | None = None
    """Mean score; None with a judge that compares."""
    gain: Interval | None = None
    """Reward − reward of the policy before training, on the same prompts."""
    attainable: float | None = None
    """Reward of the frontier at this KL; None where it is not known."""
    share: Interval | None = None
    """gain / (attainable − reward before training)."""


@dataclass(frozen=True)
class Plane:
    """The reward–KL plane of one study."""

    judge: str
    reference: str
    """Name of the policy before training."""
    num_prompts: int
    samples_per_prompt: int
    pool_size: int
    """Samples of the policy before training at each prompt."""
    base: Interval | None
    """Its reward; None with a judge that compares."""
    points: tuple[PolicyPoint, ...]
    """Trained policies, in the order of the settings."""
    checkpoints: Mapping[str, tuple[PolicyPoint, ...]]
    """Name of a run → its checkpoints by step."""
    best_of_n: BestOfN | None
    """Of the policy before training. None with a judge that compares."""
    best_of_n_win_rates: tuple[Interval, ...]
    """Its win rates against one more answer, for each n below the size of the pool."""
    tilt: AttainmentCurve | None
    """The frontier: no policy has more reward at the same KL. None without scores that differ."""
    loops: tuple[LoopCurve, ...] = ()
    """The rounds of loops, by the scores of their cards."""
    drops: tuple["Drop", ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Cause → prompts that were left out."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Run → its error."""
    same_judge: tuple[str, ...] = ()
    """Policies that were trained on labels of this very judge."""
    trained_on: int = 0
    """Prompts that a run was trained on."""


@dataclass(frozen=True)
class Drop:
    """Two policies of which the one further from the start has clearly less reward: the judge was over-optimised."""

    nearer: str
    further: str
    difference: Interval
    """Reward (win rate with a judge that compares) of the further one − that of the nearer one, paired by prompt."""


Found = TypeVar("Found", PolicySamples, PolicyPoint)


def win_shares(scores: Floats, others: Floats) -> Floats:
    """Return P(score > other score) + ½ P(equal) over all pairs of samples of a prompt: [P, n], [P, N] → [P, n]."""
    share: Floats = ((np.sign(scores[:, :, None] - others[:, None, :]) + 1) / 2).mean(-1)
    return share


def measure_plane(
    judge: str,
    reference: str,
    policies: Sequence[PolicySamples],
    checkpoints: Sequence[PolicySamples],
    pool_scores: Floats | None,
    *,
    pool_size: int,
    pool_logps: Floats | None = None,
    pool_keys: Sequence[Sequence[bytes]] | None = None,
    sizes: Sequence[int] = (),
    seed: int = 0,
    **facts: Any,
) -> Plane:
    """Return the plane with intervals over prompts, or over seeds where a point has several.

    Args:
        judge: Name of the judge.
        reference: Name of the policy before training.
        policies: Trained policies; those with the same knobs are repetitions.
        checkpoints: Policies at earlier steps; `name` is that of their run.
        pool_scores: [P, N] scores of samples of the policy before training; None with a judge that compares.
        pool_size: N.
        pool_logps: [P, N] log-probabilities of these samples, for the KL of best-of-n.
        pool_keys: [P][N] something equal for equal samples.
        sizes: The n of best-of-n.
        seed: Seed of the bootstrap.
        **facts: Further fields of `Plane`.
    """
    everyone = [*policies, *checkpoints]
    curve = _frontier(pool_scores, seed)
    shares: list[Interval | None] = [None] * len(everyone)
    best: BestOfN | None = None
    best_wins: tuple[Interval, ...] = ()
    if pool_scores is not None:
        best = measure_best_of_n(pool_scores, sizes, logps=pool_logps, keys=pool_keys, seed=seed)
        rates = best_of_n_win_rates(pool_scores, [n for n in sizes if n < pool_size])
        best_wins = tuple(bootstrap_mean(column, seed=seed) for column in rates.T)
        if curve is not None and everyone:
            rewards = np.stack([_scores(p).mean(1) for p in everyone])
            shares = attained_shares(pool_scores, rewards, np.stack([p.kl_by_prompt for p in everyone]), seed=seed)
    ways = (*families(policies), *_by_run(checkpoints))
    base = None if pool_scores is None else pool_scores.mean(1)
    single = [_point(p, base, curve, share, seed) for p, share in zip(everyone, shares, strict=True)]
    of_policies, of_checkpoints = single[: len(policies)], single[len(policies) :]
    return Plane(
        judge=judge,
        reference=reference,
        num_prompts=len(everyone[0].logps) if everyone else 0 if base is None else len(base),
        samples_per_prompt=everyone[0].logps.shape[1] if everyone else 0,
        pool_size=pool_size,
        base=None if base is None else bootstrap_mean(base, seed=seed),
        points=_over_seeds(of_policies, curve),
        checkpoints={own[0].name: tuple(own) for own in _by_run(of_checkpoints)},
        best_of_n=best,
        best_of_n_win_rates=best_wins,
        tilt=curve,
        drops=tuple(drop for own in ways if (drop := find_drop(tracks_of(own), seed)) is not None),
        **facts,
    )


class Track(NamedTuple):
    """What decides whether more KL has done harm: KL and value (reward, or win rate) at each prompt, [P] each."""

    label: str
    kl: Floats
    value: Floats


def find_drop(tracks: Sequence[Track], seed: int = 0) -> Drop | None:
    """Return the policy furthest away that has clearly less reward than the best one nearer to the start, if any.

    The difference is paired by prompt. Its interval is not adjusted for the choice of the two.
    """
    ordered = sorted(tracks, key=lambda track: float(track.kl.mean()))
    for k in range(len(ordered) - 1, 0, -1):
        best = max(ordered[:k], key=lambda track: float(np.nanmean(track.value)))
        gap = ordered[k].value - best.value
        gap = gap[np.isfinite(gap)]
        if len(gap) > 1 and (difference := bootstrap_mean(gap, seed=seed)).high < 0:
            return Drop(best.label, ordered[k].label, difference)
    return None


def tracks_of(policies: Sequence[PolicySamples]) -> list[Track]:
    """Return one track for each point; that of repetitions is their mean."""
    groups: dict[str, list[PolicySamples]] = {}
    for policy in policies:
        groups.setdefault(_key(policy), []).append(policy)
    found = []
    for own in groups.values():
        first = own[0]
        label = first.name if len(own) == 1 else knob_text(first.knobs)
        label = label if first.step is None else f"{label} at step {first.step}"
        values = np.stack([p.wins if p.scores is None else p.scores.mean(1) for p in own])
        found.append(Track(label, np.stack([p.kl_by_prompt for p in own]).mean(0), values.mean(0)))
    return found


def families(policies: Sequence[PolicySamples]) -> list[list[PolicySamples]]:
    """Return policies that differ in numbers alone: a longer way of one method, not another method or other data."""
    groups: dict[str, list[PolicySamples]] = {}
    for policy in policies:
        fixed = {k: None if isinstance(v, int | float) else v for k, v in policy.knobs.items()}
        groups.setdefault(repr(sorted(fixed.items())), []).append(policy)
    return list(groups.values())


def _key(point: PolicySamples | PolicyPoint) -> str:
    """Return what repetitions of one point have in common."""
    knobs = repr(sorted(point.knobs.items(), key=str))
    return f"{point.name}/{point.step}" if point.step is not None or not point.knobs else knobs


def _by_run(checkpoints: Sequence[Found]) -> list[list[Found]]:
    """Return the checkpoints of each run by step."""
    groups: dict[str, list[Found]] = {}
    for checkpoint in sorted(checkpoints, key=lambda c: c.step or 0):
        groups.setdefault(checkpoint.name, []).append(checkpoint)
    return list(groups.values())


def _frontier(scores: Floats | None, seed: int) -> AttainmentCurve | None:
    """Return the tilted frontier; None without scores, or if the scores of each prompt are equal."""
    if scores is None:
        return None
    try:
        return measure_tilt(scores, seed=seed)
    except ConfigError as error:
        if error.code == "no_variation":
            return None
        raise


def _scores(policy: PolicySamples) -> Floats:
    assert policy.scores is not None, "one judge scores all policies or none"
    return policy.scores


def _point(
    policy: PolicySamples, base: Floats | None, curve: AttainmentCurve | None, share: Interval | None, seed: int
) -> PolicyPoint:
    kl = _kl(policy, seed)
    numbers: dict[str, Any] = {}
    if base is not None:
        own = _scores(policy).mean(1)
        numbers = {"reward": bootstrap_mean(own, seed=seed), "gain": paired_difference(own, base, seed=seed)}
    if curve is not None:
        attainable = reward_at(curve, kl.k1.estimate)
        numbers["attainable"] = attainable if np.isfinite(attainable) else None
    judged = np.isfinite(policy.wins)
    return PolicyPoint(
        name=policy.name,
        knobs=policy.knobs,
        step=policy.step,
        num_seeds=1,
        kl=kl.k1,
        kl_k3=kl.k3,
        win_rate=win_rate(policy.wins[judged], seed=seed).rate,
        length=bootstrap_mean(policy.num_tokens.mean(1), seed=seed),
        cut_share=kl.cut_share,
        share=share,
        **numbers,
    )


def _kl(policy: PolicySamples, seed: int) -> SequenceKL:
    prompt = np.broadcast_to(np.arange(len(policy.logps))[:, None], policy.logps.shape)
    return sequence_kl(
        policy.logps.ravel(), policy.ref_logps.ravel(), prompt.ravel(),
        temperature=1.0, ended=policy.ended.ravel(), allow_cut=True, seed=seed,
    )  # fmt: skip


def _over_seeds(points: Sequence[PolicyPoint], curve: AttainmentCurve | None) -> tuple[PolicyPoint, ...]:
    """Return the points, those with the same knobs as one."""
    groups: dict[str, list[PolicyPoint]] = {}
    for point in points:
        groups.setdefault(_key(point), []).append(point)
    return tuple(own[0] if len(own) == 1 else _mean_point(own, curve) for own in groups.values())


def _mean_point(points: Sequence[PolicyPoint], curve: AttainmentCurve | None) -> PolicyPoint:
    def over(name: str) -> Interval | None:
        found = [getattr(point, name) for point in points]
        return None if None in found else mean_of_repetitions([interval.estimate for interval in found])

    means = {name: over(name) for name in ("kl", "kl_k3", "win_rate", "length", "reward", "gain", "share")}
    kl = means["kl"]
    assert kl is not None, "every point has it"
    means["kl"] = kl = not_negative(kl)
    attainable = None if curve is None else reward_at(curve, kl.estimate)
    return PolicyPoint(
        name=knob_text(points[0].knobs),
        knobs=points[0].knobs,
        step=None,
        num_seeds=len(points),
        cut_share=float(np.mean([point.cut_share for point in points])),
        attainable=attainable if attainable is not None and np.isfinite(attainable) else None,
        **means,  # type: ignore[arg-type]
    )


def not_negative(kl: Interval) -> Interval:
    """Return an interval of a KL over seeds without the part below 0: Student's does not know that no KL is there."""
    return replace(kl, low=max(0.0, kl.low))


def knob_text(knobs: Mapping[str, Any]) -> str:
    """Return the settings of a point in a few words: `beta=0.1, learning_rate=0.001`."""
    return ", ".join(f"{key.split('.')[-1]}={value}" for key, value in knobs.items())
