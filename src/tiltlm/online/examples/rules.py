"""Example rules: how a judged group becomes examples to train on. Pure functions: equal groups give equal examples.

Ties are never broken by the place of a sample: equal samples are ordered by their ids, and a comparison between equal
values is left out. Two samples with the same tokens are never a pair.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import combinations
from typing import NamedTuple

import numpy as np

from tiltlm.core.checks import not_negative, positive, prefix_errors, suggestion
from tiltlm.core.errors import ConfigError
from tiltlm.core.example import Comparison, Credit, Example
from tiltlm.core.needs import Shape
from tiltlm.data.rows.comparisons import in_random_order
from tiltlm.estimates.intervals import Floats
from tiltlm.online.examples.credit import BELOW_BOTH, CREDIT, batch_std, running_mean, soft_value
from tiltlm.online.groups import Group, Who

Rule = Callable[[Group, "ExampleSettings"], list[Example]]
PooledRule = Callable[[Sequence[Group], "ExampleSettings", Sequence[float]], "Formed"]
"""A rule that looks at all groups of a round together, and at the mean rewards of earlier rounds."""


class Dropped(Exception):
    """A group gives no example; the message is the cause, under which it is counted."""


class RuleKind(NamedTuple):
    """One example rule."""

    rule: Rule | None
    """None: `pooled` is the rule."""
    shape: Shape
    reads: tuple[str, ...] = ()
    """Settings that it reads."""
    min_samples: int = 2
    """Samples that a prompt needs at least, rivals included."""
    max_samples: int | None = None
    """Most samples of a prompt; None: any number."""
    needs_judge: bool = True
    rivals: tuple[Who, ...] | None = ()
    """Origins of which one must be among the samples, and no other beside the policy. None: any origins, or none."""
    pooled: PooledRule | None = None
    needs_scores: bool = False
    """True if win rates cannot stand for scores."""


@dataclass(frozen=True)
class ExampleSettings:
    """How the judged samples of a prompt become examples."""

    rule: str = "pair"
    """`pair`: the two samples. `best_worst`: the best against the worst. `random_pairs`: pairs chosen by a hash.
    `all_pairs`: every two samples, as one example. `versus_data`: the response of the data against the sample.
    `revised`: the revision of a sample against the sample.
    `short_best`: the shortest of the nearly best against the worst. `best`, `top`, `correct`: demonstrations. `score`,
    `mean`, `loo`, `group_std`, `batch_std`, `running_mean`, `max_rl`, `opo`: advantages for a policy gradient.
    `against`: advantages from P(better than the rivals). `bond`: a sample against two rivals, of which the better is
    imitated. `unscored`: advantages of 0, where only a KL trains. `explore`: a sample against a rival, and the rival as
    a sample to avoid. `value_gap`: scores minus the value of the prompt, which the rivals' scores give."""
    soft: bool = True
    """Use P(better) as the label of a pair. False: only which one is better; such labels have no finite optimum."""
    gap: float = 0.0
    """Least difference of the values of a pair; smaller ones are left out."""
    num_pairs: int = 1
    """Pairs of each prompt under `random_pairs`."""
    margin: float = 0.0
    """The offset of a pair is this times the difference of the scores."""
    tolerance: float = 0.1
    """`short_best` chooses among samples whose value is at least (1 − tolerance)·best + tolerance·worst."""
    share: float = 0.2
    """Share of the samples of a round that `top` keeps."""
    threshold: float = 0.5
    """`correct` keeps the distinct samples with at least this score."""
    seed: int = 0
    """Seed of the hash of `random_pairs`."""
    win_rates: bool = False
    """Rank samples, and make scores and advantages of examples, by win rates within the group, also where the judge
    scores."""
    rate: float = 0.1
    """Weight of the newest round in the baseline of `running_mean`."""
    value_beta: float = 0.5
    """`value_gap` takes β log mean e^(score/β) of the rivals from the scores, with this β, in units of the score."""
    imitation: float = 1.0
    """Weight under `bond` of the better rival, which is imitated, relative to the policy gradient."""

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ConfigError(
                f"examples.rule is {self.rule!r}{suggestion(self.rule, RULES)} Rules: {', '.join(RULES)}",
                code="unknown_name",
                key="examples.rule",
            )
        for field in fields(self):
            if field.name not in ("rule", *self.kind.reads) and getattr(self, field.name) != field.default:
                raise ConfigError(
                    f"examples.{field.name} has no effect: the rule is {self.rule}; remove it",
                    code="no_effect",
                    key=f"examples.{field.name}",
                )
        with prefix_errors("examples"):
            not_negative(gap=self.gap, margin=self.margin, seed=float(self.seed))
            positive(num_pairs=float(self.num_pairs), value_beta=self.value_beta, imitation=self.imitation)
        for name, highest in (("tolerance", 0.999), ("share", 1.0), ("rate", 1.0)):
            if not 0 < getattr(self, name) <= highest:
                raise ConfigError(
                    f"examples.{name} is {getattr(self, name)}; it must be above 0 and at most {highest:g}",
                    code="out_of_range",
                    key=f"examples.{name}",
                )

    @property
    def kind(self) -> RuleKind:
        """The rule that `rule` names."""
        return RULES[self.rule]


class Formed(NamedTuple):
    """The examples of a round."""

    examples: list[Example]
    dropped: Counter[str]
    """Groups that gave no example, by cause."""


def form_examples(groups: Sequence[Group], settings: ExampleSettings, past: Sequence[float] = ()) -> Formed:
    """Return the examples of all groups of a round, in their order.

    A group with fewer samples than the rule needs gives none: an engine may return fewer than were asked for.

    Args:
        groups: The judged samples of each prompt.
        settings: The rule.
        past: Mean reward of each earlier round.
    """
    rule, pooled = settings.kind.rule, settings.kind.pooled
    whole = [group for group in groups if len(group.samples) >= settings.kind.min_samples]
    dropped = Counter({"missing_sample": len(groups) - len(whole)} if len(whole) < len(groups) else {})
    if pooled is not None:
        formed = pooled(whole, settings, past) if whole else Formed([], Counter())
        return Formed(formed.examples, dropped + formed.dropped)
    assert rule is not None
    examples: list[Example] = []
    for group in whole:
        try:
            examples += rule(group, settings)
        except Dropped as cause:
            dropped[str(cause)] += 1
    return Formed(examples, dropped)


def with_signal(formed: Formed, most: int) -> Formed:
    """Return at most so many examples, the first ones that have an advantage other than 0, and count the others."""
    live = [example for example in formed.examples if any(credit.advantage for credit in example.credits)]
    causes = Counter({"no_signal": len(formed.examples) - len(live), "surplus": max(0, len(live) - most)})
    return Formed(live[:most], formed.dropped + +causes)


def _pair(group: Group, settings: ExampleSettings) -> list[Example]:
    return [_example(group, [(0, 1)], settings)]


def _explore(group: Group, settings: ExampleSettings) -> list[Example]:
    (example,) = _pair(group, settings)
    credits = tuple(Credit(0.0 if sample.who == "policy" else -1.0, is_drawn=False) for sample in group.samples)
    return [replace(example, credits=credits)]


def _best_worst(group: Group, settings: ExampleSettings) -> list[Example]:
    ranked = _ranked(group, settings)
    return [_example(group, [(ranked[0], ranked[-1])], settings)]


def _short_best(group: Group, settings: ExampleSettings) -> list[Example]:
    ranked = _ranked(group, settings)
    values = _values(group, settings)
    high, low = values[ranked[0]], values[ranked[-1]]
    if high == low:
        raise Dropped("tie")
    least = (1 - settings.tolerance) * high + settings.tolerance * low
    good = [k for k in ranked if values[k] >= least]
    shortest = min(good, key=lambda k: (len(group.samples[k].response.token_ids), -values[k], group.samples[k].id))
    return [_example(group, [(shortest, ranked[-1])], settings)]


def _random_pairs(group: Group, settings: ExampleSettings) -> list[Example]:
    pairs = list(combinations(range(len(group.samples)), 2))
    order = in_random_order(pairs, [sample.id for sample in group.samples], settings.seed)
    return [_example(group, order[: settings.num_pairs], settings)]


def _all_pairs(group: Group, settings: ExampleSettings) -> list[Example]:
    return [_example(group, list(combinations(range(len(group.samples)), 2)), settings)]


def _versus(who: Who, group: Group, settings: ExampleSettings) -> list[Example]:  # noqa: ARG001
    """Return the sample of this origin as better than that of the policy."""
    by_origin = {sample.who: k for k, sample in enumerate(group.samples)}
    if by_origin.keys() != {who, "policy"}:
        raise Dropped("missing_sample")
    chosen, rejected = by_origin[who], by_origin["policy"]
    if group.is_same(chosen, rejected):
        raise Dropped("same_tokens")
    return [_made(group, [Comparison(chosen, rejected)], group.scores)]


def _best(group: Group, settings: ExampleSettings) -> list[Example]:
    return [_demonstration(group, _ranked(group, settings, at_least=1)[0])]


def _correct(group: Group, settings: ExampleSettings) -> list[Example]:
    found: dict[tuple[bytes, bytes], int] = {}
    for k in _ranked(group, settings, at_least=1):
        if group.values[k] >= settings.threshold:
            found.setdefault(group.samples[k].response.key, k)
    if not found:
        raise Dropped("none_correct")
    return [_demonstration(group, k) for k in sorted(found.values())]


def _top(groups: Sequence[Group], settings: ExampleSettings, past: Sequence[float]) -> Formed:
    """Return the best samples of all groups as demonstrations; easy prompts give more of them than hard ones."""
    del past
    known = [(group.values[k], group.samples[k].id, g, k) for g, group in enumerate(groups) for k in group.ranked()]
    number = int(np.ceil(settings.share * len(known)))
    chosen = sorted(known, key=lambda one: (-one[0], one[1]))[:number]
    places = sorted((g, k) for _, _, g, k in chosen)
    empty = len(groups) - len({g for g, _ in places})
    examples = [_demonstration(groups[g], k) for g, k in places]
    return Formed(examples, Counter({"not_in_top": empty} if empty else {}))


def _values(group: Group, settings: ExampleSettings) -> Floats:
    """Return what samples are ranked by."""
    return group.win_rates if settings.win_rates else group.values


def _ranked(group: Group, settings: ExampleSettings, at_least: int = 2) -> list[int]:
    """Return the judged samples, the best first.

    Raises:
        Dropped: Fewer than `at_least` samples were judged.
    """
    ranked = group.ranked(_values(group, settings))
    if len(ranked) < at_least:
        raise Dropped("not_judged")
    return ranked


def _example(group: Group, pairs: Iterable[tuple[int, int]], settings: ExampleSettings) -> Example:
    """Return an example with those comparisons that say something.

    Raises:
        Dropped: None of them does; the cause is that of the first.
    """
    comparisons: list[Comparison] = []
    causes: list[str] = []
    for i, j in pairs:
        try:
            comparisons.append(_comparison(group, i, j, settings))
        except Dropped as cause:
            causes.append(str(cause))
    if not comparisons:
        raise Dropped(causes[0] if causes else "missing_sample")
    return _made(group, comparisons, group.win_rates if settings.win_rates else group.scores)


def _comparison(group: Group, i: int, j: int, settings: ExampleSettings) -> Comparison:
    """Return the comparison of two samples.

    Raises:
        Dropped: It is a tie, is not known, or both have the same tokens.
    """
    p, values = float(group.preference[i, j]), _values(group, settings)
    if group.is_same(i, j):
        raise Dropped("same_tokens")
    if np.isnan(p):
        raise Dropped("not_judged")
    if p == 0.5:
        raise Dropped("tie")
    if abs(values[i] - values[j]) < settings.gap:
        raise Dropped("small_gap")
    offset = settings.margin * float(group.scores[i] - group.scores[j]) if settings.margin else 0.0
    if np.isnan(offset):
        raise Dropped("not_scored")
    return Comparison(i, j, preference=p if settings.soft else float(p > 0.5), offset=offset).oriented


def _made(group: Group, comparisons: Sequence[Comparison], values: Floats) -> Example:
    """Return the example of some comparisons, with only the samples that occur in them, and their values as scores."""
    used = sorted({k for one in comparisons for k in (one.chosen, one.rejected)})
    place = {k: new for new, k in enumerate(used)}
    scores = tuple(float(values[k]) for k in used)
    return Example(
        id=group.id,
        prompt_ids=group.prompt_ids,
        responses=tuple(group.samples[k].response for k in used),
        comparisons=tuple(
            Comparison(place[one.chosen], place[one.rejected], one.weight, one.preference, one.offset)
            for one in comparisons
        ),
        scores=() if any(np.isnan(scores)) else scores,
    )


def _demonstration(group: Group, k: int) -> Example:
    return Example(f"{group.id}/{group.samples[k].id}", group.prompt_ids, (group.samples[k].response,))


def _rewarded(group: Group, settings: ExampleSettings) -> tuple[list[int], Floats, Floats]:
    """Return the samples with a reward, their rewards, and their lengths in tokens."""
    values = _values(group, settings)
    known = [k for k in range(len(group.samples)) if np.isfinite(values[k])]
    lengths = np.array([len(group.samples[k].response.token_ids) for k in known], dtype=np.float64)
    return known, np.asarray(values[known]), lengths


def _credited(group: Group, known: Sequence[int], advantages: Floats) -> Example:
    """Return an example of samples with their advantages."""
    return Example(
        id=group.id,
        prompt_ids=group.prompt_ids,
        responses=tuple(group.samples[k].response for k in known),
        credits=tuple(Credit(float(advantage)) for advantage in advantages),
    )


def _credit(group: Group, settings: ExampleSettings) -> list[Example]:
    kind = CREDIT[settings.rule]
    known, rewards, lengths = _rewarded(group, settings)
    if len(known) < kind.min_samples:
        raise Dropped("not_judged")
    return [_credited(group, known, kind.rule(rewards, lengths))]


def _unscored(group: Group, settings: ExampleSettings) -> list[Example]:  # noqa: ARG001
    return [_credited(group, range(len(group.samples)), np.zeros(len(group.samples)))]


def _against(group: Group, settings: ExampleSettings) -> list[Example]:  # noqa: ARG001
    """Return as advantage how much likelier than ½ each sample of the policy is to beat the rivals."""
    own = [k for k, sample in enumerate(group.samples) if sample.who == "policy"]
    others = [k for k, sample in enumerate(group.samples) if sample.who != "policy"]
    advantages = np.array([np.mean(group.preference[k, others]) - 0.5 for k in own])
    known = [place for place, advantage in enumerate(advantages) if np.isfinite(advantage)]
    if not known:
        raise Dropped("not_judged")
    return [_credited(group, [own[place] for place in known], advantages[known])]


def _value_gap(group: Group, settings: ExampleSettings) -> list[Example]:
    """Return the samples of the policy, with their rewards minus the value of the prompt as scores."""
    judged = [k for k in range(len(group.samples)) if np.isfinite(group.scores[k])]
    own = [k for k in judged if group.samples[k].who == "policy"]
    others = [k for k in judged if group.samples[k].who != "policy"]
    if not own or not others:
        raise Dropped("not_judged")
    value = soft_value(group.scores[others], settings.value_beta)
    return [
        Example(
            id=group.id,
            prompt_ids=group.prompt_ids,
            responses=tuple(group.samples[k].response for k in own),
            scores=tuple(float(group.scores[k]) - value for k in own),
        )
    ]


def _bond(groups: Sequence[Group], settings: ExampleSettings, past: Sequence[float]) -> Formed:
    """Return J-BOND's examples: one sample of the policy against two of the anchor, of which the better is imitated.

    The policy's sample has reward −log 16 if it is strictly below both, else 0, minus the mean over other prompts.
    """
    del past
    judged = [group for group in groups if np.isfinite(group.scores).all() and len(group.samples) == 3]
    dropped = Counter({"not_judged": len(groups) - len(judged)} if len(judged) < len(groups) else {})
    if not judged:
        return Formed([], dropped)
    below = [(np.array([BELOW_BOTH if g.scores[0] < g.scores[1:].min() else 0.0]), np.ones(1)) for g in judged]
    examples = []
    for group, advantage in zip(judged, running_mean(below, (), 1.0), strict=True):
        best = next(k for k in group.ranked() if group.samples[k].who != "policy")
        example = _credited(group, [0, best], np.array([advantage[0], settings.imitation]))
        own, imitated = example.credits
        examples.append(replace(example, credits=(own, replace(imitated, is_drawn=False))))
    return Formed(examples, dropped)


def _over_groups(groups: Sequence[Group], settings: ExampleSettings, past: Sequence[float]) -> Formed:
    """Return the advantages of a rule that reads the rewards of the whole round."""
    found = [(group, *_rewarded(group, settings)) for group in groups]
    judged = [(group, known, rewards, lengths) for group, known, rewards, lengths in found if known]
    numbers = [(rewards, lengths) for _, _, rewards, lengths in judged]
    dropped = Counter({"not_judged": len(groups) - len(judged)} if len(judged) < len(groups) else {})
    if not judged:
        return Formed([], dropped)
    of_groups = batch_std(numbers) if settings.rule == "batch_std" else running_mean(numbers, past, settings.rate)
    examples = [
        _credited(group, known, advantages) for (group, known, _, _), advantages in zip(judged, of_groups, strict=True)
    ]
    return Formed(examples, dropped)


PAIR = ("soft", "gap", "margin", "win_rates")
"""Settings that rules for pairs read."""
RULES: dict[str, RuleKind] = {
    "pair": RuleKind(_pair, "pairs", PAIR, max_samples=2, rivals=None),
    "best_worst": RuleKind(_best_worst, "pairs", PAIR, rivals=None),
    "short_best": RuleKind(_short_best, "pairs", (*PAIR, "tolerance"), rivals=None),
    "random_pairs": RuleKind(_random_pairs, "pairs", (*PAIR, "num_pairs", "seed"), rivals=None),
    "all_pairs": RuleKind(_all_pairs, "pairs", PAIR, rivals=None),
    "versus_data": RuleKind(partial(_versus, "data"), "pairs", max_samples=2, needs_judge=False, rivals=("data",)),
    "revised": RuleKind(partial(_versus, "revision"), "pairs", max_samples=2, needs_judge=False, rivals=("revision",)),
    "explore": RuleKind(_explore, "rollouts", PAIR, max_samples=2, rivals=("reference",)),
    "best": RuleKind(_best, "demonstrations", ("win_rates",), min_samples=1, rivals=None),
    "top": RuleKind(None, "demonstrations", ("share",), min_samples=1, pooled=_top),
    "correct": RuleKind(_correct, "demonstrations", ("threshold",), min_samples=1),
    **{
        name: RuleKind(_credit, "rollouts", ("win_rates",), min_samples=kind.min_samples)
        for name, kind in CREDIT.items()
    },
    "batch_std": RuleKind(None, "rollouts", ("win_rates",), pooled=_over_groups),
    "running_mean": RuleKind(None, "rollouts", ("win_rates", "rate"), min_samples=1, pooled=_over_groups),
    "against": RuleKind(_against, "rollouts", rivals=("reference", "mixture")),
    "bond": RuleKind(
        None,
        "rollouts",
        ("imitation",),
        min_samples=3,
        max_samples=3,
        rivals=("reference",),
        pooled=_bond,
        needs_scores=True,
    ),
    "value_gap": RuleKind(_value_gap, "lists", ("value_beta",), rivals=("reference",), needs_scores=True),
    "unscored": RuleKind(_unscored, "rollouts", min_samples=1, needs_judge=False),
}
"""Every example rule by its name."""
