"""Batch metrics of an objective, under the names that TRL uses.

A metric is stored as a sum and a weight, so that packs, ranks and steps add up exactly; the division comes last. The
comparisons of one example share one vote: an example with 28 comparisons counts as much as one with a single pair.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from tiltlm.core import (
    Demonstrations,
    Example,
    Lists,
    Pairs,
    ResponseLogps,
    Responses,
    ResponseScores,
    Rollouts,
    UnpairedResponses,
    View,
    Views,
)
from tiltlm.core.logps import segment_sum
from tiltlm.core.views import Slots
from tiltlm.objectives import Objective
from tiltlm.objectives.dry_run import toy_batch
from tiltlm.objectives.shapes.rollouts import PolicyGradient
from tiltlm.objectives.terms import Term, example_losses

SOURCES = "sources/"
"""Begin of the names of metrics of one source: `sources/NAME/METRIC`."""
OF_SOURCES = ("rewards/chosen", "rewards/rejected", "rewards/accuracies", "nll")
"""Metrics that are measured by source too, beside the loss."""
MAX_SOURCES = 20
"""Numbers are divided by source only up to this many sources: a column may name the page of each row."""
NO_SOURCE = "(none)"
"""Name of the examples without a source."""


@dataclass(frozen=True)
class MetricSums:
    """Sums and weights of metrics; `a + b` adds both. The names depend only on the view and the objective."""

    sums: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)

    def __add__(self, other: "MetricSums") -> "MetricSums":
        names = [*self.sums, *(name for name in other.sums if name not in self.sums)]

        def added(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, float]:
            return {name: a.get(name, 0.0) + b.get(name, 0.0) for name in names}

        return MetricSums(added(self.sums, other.sums), added(self.weights, other.weights))

    def vector(self) -> Float[Tensor, " M2"]:
        """Return the sums, then the weights, as float64 for an all-reduce over ranks. `with_vector` reads it back."""
        return torch.tensor([*self.sums.values(), *self.weights.values()], dtype=torch.float64)

    def with_vector(self, vector: Float[Tensor, " M2"]) -> "MetricSums":
        """Return the same names with the sums and weights of `vector`."""
        numbers, size = vector.tolist(), len(self.sums)
        return MetricSums(
            dict(zip(self.sums, numbers[:size], strict=True)), dict(zip(self.sums, numbers[size:], strict=True))
        )

    def means(self) -> dict[str, float]:
        """Return the weighted mean of each metric. Metrics of weight 0 are absent.

        `rewards/margins` is `rewards/chosen` − `rewards/rejected`: for comparisons the mean margin, for unpaired
        responses the difference of the two means. A source has `sources/NAME/examples`, the number of its examples.
        """
        means = {name: total / self.weights[name] for name, total in self.sums.items() if self.weights[name] > 0}
        for name in [name for name in means if name.endswith("rewards/chosen")]:
            of = name.removesuffix("rewards/chosen")
            if f"{of}rewards/rejected" in means:
                means[f"{of}rewards/margins"] = means[name] - means[f"{of}rewards/rejected"]
        for name in [name for name in means if name.startswith(SOURCES) and name.endswith("/loss")]:
            means[f"{name.removesuffix('loss')}examples"] = self.weights[name]
        return means


def metric_sums(objective: Objective, responses: Responses, view: View) -> MetricSums:
    """Return the metrics of one pack, without gradient.

    Comparisons (`Pairs`): `rewards/chosen`, `rewards/rejected`, `rewards/accuracies` (expected agreement with the
    label, p·[m > 0] + (1−p)·[m < 0]; a tie counts ½), `rewards/ties` (share with m = 0 exactly), `logps/chosen`,
    `logps/rejected` (nats per response), `logps_per_token/chosen`, `logps_per_token/rejected`. Chosen is the response
    that the label prefers; a comparison whose label prefers neither (p = ½) is in none of these metrics.
    Unpaired responses (`UnpairedResponses`): the same without accuracies and ties, where `chosen` means desirable. If
    the objective has a statistic of the step, it is added: `kl` (KTO's z0, nats) or `delta` (BCO's δ, reward units).
    Lists: as for comparisons, over every two responses of different rank, equally weighted within a list.
    Demonstrations: `nll`, nats per token. Rollouts: `nll`, `log_ratios` (nats per response, if there is a KL),
    `clipped` (share of tokens beyond the limit of their ratio), `ratios/deviation` (mean |ω − 1| over tokens), and with
    a critic `values/error` (mean (V − G)² over tokens) and `values/returns` (mean G).
    A reward model has no `logps`. A sum of objectives has the metrics of its first part, and from the other parts those
    that the first does not have.
    """
    match view:
        case Pairs():
            return _pairs(objective, responses, view)
        case UnpairedResponses():
            return _unpaired(objective, responses, view)
        case Lists():
            return _pairs(objective, responses, comparisons_of(view))
        case Demonstrations():
            return _demonstrations(responses, view)
        case Rollouts():
            assert isinstance(responses, ResponseLogps)
            if not isinstance(objective, PolicyGradient):  # a part of a sum, whose metrics are those of its first part
                return MetricSums()
            return _rollouts(objective, responses, view)
        case Views():
            parts = [metric_sums(objective, responses, part) for part in reversed(view.parts)]
            return MetricSums(
                {name: value for part in parts for name, value in part.sums.items()},
                {name: value for part in parts for name, value in part.weights.items()},
            )


def sums_by_source(
    objective: Objective,
    responses: Responses,
    terms: Sequence[Term],
    examples: Sequence[Example],
    slots: Slots,
    sources: Collection[str],
) -> MetricSums:
    """Return the metrics of a pack's examples by source, under the names `sources/NAME/METRIC`.

    `loss` is the mean over examples of the loss of each, as if it were the only one of its step. `rewards/chosen`,
    `rewards/rejected`, `rewards/accuracies` and `nll` are those of `metric_sums`, of the examples of this source.

    Args:
        objective: The method.
        responses: Those of the pack.
        terms: The loss terms of the pack.
        examples: The examples of the pack.
        slots: For each example the numbers of its responses.
        sources: Sources to measure.
    """
    members: dict[str, list[int]] = {}
    for e, example in enumerate(examples):
        if example.source in sources:
            members.setdefault(example.source, []).append(e)
    counts = [objective.view.of([example], [slot]).counts() for example, slot in zip(examples, slots, strict=True)]
    losses = example_losses(terms, counts)
    found = MetricSums()
    for source, places in members.items():
        view = objective.view.of([examples[e] for e in places], [slots[e] for e in places])
        own = metric_sums(objective, responses, view)
        names = [name for name in OF_SOURCES if name in own.sums]
        prefix = f"{SOURCES}{source or NO_SOURCE}/"
        found += MetricSums(
            {f"{prefix}loss": losses[places].sum().item(), **{prefix + name: own.sums[name] for name in names}},
            {f"{prefix}loss": float(len(places)), **{prefix + name: own.weights[name] for name in names}},
        )
    return found


def metric_names(objective: Objective) -> list[str]:
    """Return the names of an objective's metrics, of which data without ties or without a label lack some."""
    return list(metric_sums(objective, *toy_batch(objective)).means())


def _pairs(objective: Objective, responses: Responses, pairs: Pairs) -> MetricSums:
    rewards = _rewards(objective, responses)
    chosen, rejected, p = pairs.chosen.cpu(), pairs.rejected.cpu(), pairs.preference.cpu()
    margin = rewards[chosen] - rewards[rejected]
    agrees = torch.heaviside(margin, margin.new_tensor(0.5))
    columns = {
        "rewards/chosen": rewards[chosen],
        "rewards/rejected": rewards[rejected],
        "rewards/accuracies": p * agrees + (1 - p) * (1 - agrees),
        "rewards/ties": (margin == 0).double(),
    }
    for name, values in _logps(responses).items():
        columns |= {f"{name}/chosen": values[chosen], f"{name}/rejected": values[rejected]}
    return _weighted(columns, dict.fromkeys(columns, _shares(pairs)))


def comparisons_of(lists: Lists) -> Pairs:
    """Return every two responses of different rank as a comparison; the comparisons of a list share its weight."""
    rank, present = lists.rank, lists.present
    ahead = (rank[:, :, None] < rank[:, None, :]) & present[:, :, None] & present[:, None, :]
    row, better, worse = ahead.nonzero(as_tuple=True)
    ones = torch.ones_like(lists.weight[row])
    return Pairs(
        chosen=lists.response[row, better],
        rejected=lists.response[row, worse],
        example=row,
        weight=lists.weight[row] / ahead.sum((1, 2))[row],
        preference=ones,
        offset=torch.zeros_like(ones),
        num_examples=lists.num_examples,
        is_certain=True,
    )


def _unpaired(objective: Objective, responses: Responses, unpaired: UnpairedResponses) -> MetricSums:
    per_response = {"rewards": _rewards(objective, responses), **_logps(responses)}
    good = unpaired.desirable.cpu().double()
    columns, weights = {}, {}
    for side, weight in (("chosen", good), ("rejected", 1 - good)):
        for name, values in per_response.items():
            columns[f"{name}/{side}"], weights[f"{name}/{side}"] = values[unpaired.response.cpu()], weight
    if objective.statistic is not None:
        name = objective.statistic.metric
        columns[name], weights[name] = torch.full_like(good, unpaired.baseline), torch.ones_like(good)
    return _weighted(columns, weights)


def _demonstrations(responses: Responses, demonstrations: Demonstrations) -> MetricSums:
    index = demonstrations.response.cpu()
    tokens = responses.num_tokens.cpu()[index].double()
    nll = -responses.seq_logps.detach().cpu()[index]
    return MetricSums({"nll": nll.sum().item()}, {"nll": tokens.sum().item()})


def _rollouts(objective: PolicyGradient, responses: ResponseLogps, rollouts: Rollouts) -> MetricSums:
    with torch.no_grad():
        numbers = objective.numbers(responses, rollouts)
        clipped = objective.surrogate.is_clipped(numbers.logps, numbers.log_ratios, numbers.advantages)
    columns = {
        "nll": -numbers.logps,
        "clipped": clipped.double(),
        "ratios/deviation": torch.expm1(numbers.log_ratios).abs(),
    }
    if numbers.values is not None and numbers.returns is not None:
        columns |= {"values/error": (numbers.values - numbers.returns).square(), "values/returns": numbers.returns}
    num_tokens, num_samples = float(len(rollouts.sample)), float(len(rollouts.response))
    sums = {name: float(values.sum()) for name, values in columns.items()}
    weights = dict.fromkeys(columns, num_tokens)
    if numbers.ref_log_ratios is not None:
        sums["log_ratios"], weights["log_ratios"] = float(numbers.ref_log_ratios.sum()), num_samples
    return MetricSums(sums, weights)


def _rewards(objective: Objective, responses: Responses) -> Float[Tensor, " N"]:
    """Return the reward of each response, float64 on the CPU."""
    with torch.no_grad():
        return objective.reward(responses).double().cpu()


def _logps(responses: Responses) -> dict[str, Float[Tensor, " N"]]:
    """Return S and A of each response, float64 on the CPU; nothing for the scores of a reward model."""
    if isinstance(responses, ResponseScores):
        return {}
    with torch.no_grad():
        return {"logps": responses.seq_logps.double().cpu(), "logps_per_token": responses.mean_logps.double().cpu()}


def _shares(pairs: Pairs) -> Float[Tensor, " B"]:
    """Return the share of each comparison in its example's vote.

    A comparison whose label is a tie has no share, and an example of weight 0 or with ties only has no vote.
    """
    weight, example = pairs.weight.cpu() * (pairs.preference.cpu() != 0.5), pairs.example.cpu()
    totals = segment_sum(weight, example, pairs.num_examples)[example]
    return torch.where(totals > 0, weight / totals, 0.0)


def _weighted(columns: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> MetricSums:
    return MetricSums(
        {name: (values * weights[name]).sum().item() for name, values in columns.items()},
        {name: weight.sum().item() for name, weight in weights.items()},
    )
