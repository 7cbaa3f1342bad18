"""The step divides once, by counts over the whole of it: however it is cut, loss and gradient are the same numbers."""

import math
from dataclasses import replace

import pytest
import torch

from support.errors import raises
from support.toy_training import SortedMargins, ToyPolicy, ToyReference, ToyScorer, rows
from tiltlm.core import DataError, NumericsError
from tiltlm.objectives import CATALOG, WeightedSum, aot, aot_unpaired, bco, build, dpo, knobs, kto, sft
from tiltlm.objectives.terms import reads_scores
from tiltlm.training.packs import cut_into_packs
from tiltlm.training.step import Stepper

CATALOGUE = {name: build(name, **{k.name: 0.5 for k in knobs(name) if k.is_required}) for name in CATALOG}
OBJECTIVES = {
    **{name: objective for name, objective in CATALOGUE.items() if not objective.extras},
    "lists": build("nca", beta=0.3, reward_temperature=0.5),
    "sum": WeightedSum((dpo(0.3), sft(), aot(0.3)), (0.7, 0.2, 0.4)),
    "sum with a statistic": WeightedSum((kto(), aot_unpaired(0.3)), (1.0, 2.0)),
    "sorted": SortedMargins(),
}
"""Everything but what needs whole next-token distributions, which the toy policy does not give."""
WHOLE = 10**6


def moved_policy(kind=ToyPolicy):
    """A policy in float64 and its reference, which are not the same."""
    policy = kind(seed=1, dtype=torch.float64)
    reference = ToyReference(policy, name="other")
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(0.3 * torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(p.numel())))
    return policy, reference


def gradient(policy):
    return torch.cat([p.grad.flatten() for p in policy.parameters()])


def ready(objective, max_tokens):
    """What the objective trains, and its stepper."""
    policy, reference = moved_policy(ToyScorer if reads_scores(objective) else ToyPolicy)
    return policy, Stepper(policy, objective, None if reads_scores(objective) else reference, max_tokens)


def step(objective, examples, max_tokens):
    policy, stepper = ready(objective, max_tokens)
    outcome = stepper.train(examples)
    return outcome, gradient(policy), policy


def seq_logps(policy, example, response):
    """Log-probability of a response by hand: every token from the one before it, one at a time."""
    ids = [*example.prompt_ids.tolist(), *response.token_ids.tolist()]
    start, total = len(example.prompt_ids), torch.zeros((), dtype=torch.float64)
    for place in range(start, len(ids)):
        hidden = policy.embedding.weight[ids[place - 1]] * (1 + 0.01 * (place - 1))
        logits = policy.head(policy.norm(policy.layer(hidden)))
        total = total + logits.log_softmax(-1)[ids[place]]
    return total


@pytest.mark.parametrize("max_tokens", [1, 20, 40])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_cutting_a_step_into_packs_changes_nothing(name, max_tokens):
    examples = rows(9)
    whole, expected, _ = step(OBJECTIVES[name], examples, WHOLE)
    cut_up, found, policy = step(OBJECTIVES[name], examples, max_tokens)
    assert policy.num_forwards > 1
    assert cut_up.loss == pytest.approx(whole.loss, rel=1e-12)
    assert (found - expected).abs().max() <= 1e-12 * expected.abs().max()
    assert expected.abs().max() > 1e-4
    assert cut_up.metric_sums.means() == pytest.approx(whole.metric_sums.means(), rel=1e-12)


def test_dpo_loss_by_hand():
    """weight · soft-label logistic of β·(ρ_w − ρ_l) − offset, divided by the number of examples and not by weights."""
    policy, reference = moved_policy()
    frozen, total = reference._frozen, 0.0
    examples = rows(5)
    for example in examples:
        ratios = [(seq_logps(policy, example, r) - seq_logps(frozen, example, r)).item() for r in example.responses]
        comparison = example.comparisons[0]
        margin = 0.1 * (ratios[0] - ratios[1]) - comparison.offset
        p = comparison.preference
        total += example.weight * (p * math.log1p(math.exp(-margin)) + (1 - p) * math.log1p(math.exp(margin)))
    outcome = Stepper(policy, dpo(beta=0.1), reference, max_tokens=15).train(examples)
    assert outcome.loss == pytest.approx(total / 5, rel=1e-10)


def test_kto_baseline_is_pooled_over_the_whole_step():
    frozen, _ = moved_policy()
    policy, reference = ToyPolicy(seed=1, dtype=torch.float64), ToyReference(frozen, name="other")
    examples, beta = rows(5), 0.3
    ratio = lambda e, r: (seq_logps(policy, e, r) - seq_logps(frozen, e, r)).item()  # noqa: E731
    total = sum(e.weight * ratio(e, r) for e in examples for r in e.partners)
    z0 = max(0.0, total / sum(2 * e.weight for e in examples))
    sigmoid = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    values = [
        e.weight * (1 - sigmoid(sign * beta * (ratio(e, r) - z0)))
        for e in examples
        for r, sign in zip(e.responses, (1, -1), strict=True)
    ]
    outcome = Stepper(policy, kto(beta=beta), reference, max_tokens=10).train(examples)
    assert outcome.baseline == pytest.approx(z0, rel=1e-9)
    assert outcome.baseline > 0, "a baseline of 0 would test nothing"
    assert outcome.loss == pytest.approx(sum(values) / 10, rel=1e-9)


def test_bco_shift_is_the_middle_of_both_classes_over_all_steps_so_far():
    frozen, _ = moved_policy()
    policy, reference = ToyPolicy(seed=1, dtype=torch.float64), ToyReference(frozen, name="other")
    examples, beta = rows(7), 0.3
    reward = lambda e, k: (  # noqa: E731
        beta * (seq_logps(policy, e, e.responses[k]) - seq_logps(frozen, e, e.responses[k])).item()
    )
    stepper = Stepper(policy, bco(beta), reference, max_tokens=10)
    first = stepper.train(examples[:3])
    second = stepper.train(examples[3:5], first.memory)
    weight = sum(e.weight for e in examples[:5])
    totals = [sum(e.weight * reward(e, k) for e in examples[:5]) for k in (0, 1)]
    assert second.baseline == pytest.approx(sum(totals) / weight / 2, rel=1e-9)
    assert second.memory == pytest.approx((totals[0], weight, totals[1], weight))
    held_out = stepper.evaluate(examples[5:], memory=second.memory)
    assert held_out.baseline == pytest.approx(second.baseline), "held-out rows are measured, they do not move the shift"


@pytest.mark.parametrize("objective", [kto(0.3), bco(0.3)], ids=["kto", "bco"])
def test_a_weight_in_a_statistic_is_a_number_of_rows(objective):
    """Weight 0 is no row, and weight 2 two rows, in the statistic and, but for the divisor, in the loss."""
    frozen, _ = moved_policy()
    policy, reference = ToyPolicy(seed=1, dtype=torch.float64), ToyReference(frozen, name="other")
    ones = [replace(example, weight=1.0) for example in rows(5)]
    stepper = Stepper(policy, objective, reference, max_tokens=10)
    weighted = stepper.train([replace(ones[0], weight=0.0), replace(ones[1], weight=2.0), *ones[2:]])
    repeated = stepper.train([*ones[1:], ones[1]])
    assert weighted.baseline == pytest.approx(repeated.baseline, rel=1e-12)
    assert weighted.baseline != 0
    assert weighted.loss == pytest.approx(repeated.loss, rel=1e-12)
    nothing = stepper.train([replace(ones[0], weight=0.0)])
    assert (nothing.baseline, nothing.loss) == (0, 0)


@pytest.mark.parametrize("num", [1, 2, 5])
def test_a_coupled_objective_has_the_gradient_of_the_unsplit_step(num):
    """Worked out without any forest: sort all chosen and all rejected log-probabilities, and differentiate."""
    examples = rows(num)
    policy, _ = moved_policy()
    chosen, rejected = (torch.stack([seq_logps(policy, e, e.responses[k]) for e in examples]) for k in (0, 1))
    margins = chosen.sort().values - rejected.sort().values
    loss = torch.nn.functional.softplus(-margins).mean()
    loss.backward()
    expected = gradient(policy)

    fresh, _ = moved_policy()
    outcome = Stepper(fresh, SortedMargins(), None, max_tokens=1).train(examples)
    assert outcome.loss == pytest.approx(loss.item(), rel=1e-10)
    assert (gradient(fresh) - expected).abs().max() <= 1e-10 * expected.abs().max()


def test_a_coupled_step_in_one_pack_takes_one_pass():
    _, _, policy = step(SortedMargins(), rows(4), WHOLE)
    assert policy.num_forwards == 1


def test_evaluation_is_the_same_step_without_gradient():
    for name, objective in OBJECTIVES.items():
        policy, stepper = ready(objective, max_tokens=25)
        examples = rows(7)
        expected = stepper.train(examples)
        policy.zero_grad()
        seen = []
        found = stepper.evaluate(
            examples, observe=lambda pack, responses, view, terms, seen=seen: seen.extend(pack.examples)
        )
        assert found.loss == pytest.approx(expected.loss, rel=1e-12), name
        assert found.metric_sums.means() == pytest.approx(expected.metric_sums.means(), rel=1e-12)
        assert sorted(e.id for e in seen) == sorted(e.id for e in examples)
        assert all(p.grad is None for p in policy.parameters())


def test_no_gradient_reaches_the_reference():
    policy, reference = moved_policy()
    reference._frozen.requires_grad_(True)
    Stepper(policy, dpo(), reference, max_tokens=30).train(rows(4))
    assert all(p.grad is None for p in reference._frozen.parameters())


def test_rows_with_the_same_prompt_share_a_pack_and_keep_their_weight():
    examples = rows(8)
    packs = cut_into_packs(examples, max_tokens=1, num_ranks=1)[0]
    assert len(packs) < len(examples)
    assert sum(len(pack.trees) for pack in packs) == len({e.prompt_ids.tobytes() for e in examples})
    one, once, _ = step(dpo(), examples[:1], WHOLE)
    twice, repeated, _ = step(dpo(), [examples[0], examples[0]], WHOLE)
    assert twice.loss == pytest.approx(one.loss)
    assert torch.allclose(once, repeated)
    assert twice.num_tokens == one.num_tokens


def test_packs_of_ranks_cover_each_example_once_and_are_as_many():
    for num, num_ranks in [(5, 2), (1, 2), (2, 4), (9, 3)]:
        examples = rows(num, shared_prompts=False)
        ranks = cut_into_packs(examples, max_tokens=20, num_ranks=num_ranks)
        assert len({len(packs) for packs in ranks}) == 1
        counted = [e.id for packs in ranks for pack in packs if pack.counted for e in pack.examples]
        assert sorted(counted) == sorted(e.id for e in examples)


def test_a_row_whose_loss_is_not_finite_is_named():
    policy, reference = moved_policy()
    policy.poisoned = {2}
    outcome = Stepper(policy, dpo(), reference, max_tokens=1).train(rows(6))
    poisoned = [e.id for e in cut_into_packs(rows(6), 1, 1)[0][1].examples]
    assert not math.isfinite(outcome.loss)
    assert outcome.suspects == poisoned


def test_a_baseline_that_is_not_finite_is_not_clamped_to_zero():
    policy, reference = moved_policy()
    policy.poisoned = {1}
    assert math.isnan(Stepper(policy, kto(), reference, max_tokens=WHOLE).train(rows(3)).loss)


def test_randomness_between_the_two_passes_is_found():
    policy, _ = moved_policy()
    policy.norm = torch.nn.Sequential(policy.norm, torch.nn.Dropout(0.5))
    with raises(NumericsError, "passes_differ") as found:
        Stepper(policy, SortedMargins(), None, max_tokens=1).train(rows(4))
    assert found.value.row.startswith("row-")


def test_a_missing_partner_is_named():
    policy, reference = moved_policy()
    bare = [type(e)(e.id, e.prompt_ids, e.responses, labels=e.labels) for e in rows(2)]
    with raises(DataError, "no_partner", row="row-0"):
        Stepper(policy, kto(), reference, max_tokens=WHOLE).train(bare)


def test_signals_are_polled_before_every_pack():
    class Stop(Exception):
        pass

    def poll(calls=[]):  # noqa: B006
        calls.append(1)
        if len(calls) == 3:
            raise Stop

    policy, reference = moved_policy()
    with pytest.raises(Stop):
        Stepper(policy, dpo(), reference, max_tokens=1, poll=poll).train(rows(6))
    assert policy.num_forwards == 2


@pytest.mark.parametrize("max_tokens", [20, WHOLE])
@pytest.mark.parametrize("name", ["dpo", "kto", "sft", "sorted", "sum", "lists"])
def test_metrics_of_a_source_are_those_of_a_step_with_its_examples(name, max_tokens):
    """A statistic (KTO's baseline) and coupled losses are of the whole step, so only their rewards are compared."""
    objective = OBJECTIVES[name]
    examples = [replace(example, source="ab"[i % 2]) for i, example in enumerate(rows(9))]
    _, stepper = ready(objective, max_tokens)
    stepper = replace(stepper, sources=("a", "b", "c"))
    whole = stepper.evaluate(examples)
    means = whole.metric_sums.means()
    for source, own in (("a", examples[::2]), ("b", examples[1::2])):
        alone = replace(stepper, sources=()).evaluate(own).metric_sums.means()
        for metric in ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "nll"):
            assert means.get(f"sources/{source}/{metric}") == (
                pytest.approx(alone[metric], rel=1e-9) if metric in alone else None
            )
        if objective.statistic is None and not objective.coupled:
            losses = [stepper.evaluate([example]).loss for example in own]
            assert means[f"sources/{source}/loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-9)
        assert means[f"sources/{source}/examples"] == len(own)
    assert not [metric for metric in means if metric.startswith("sources/c/")]
    plain = replace(stepper, sources=()).evaluate(examples).metric_sums.means()
    assert {metric: value for metric, value in means.items() if not metric.startswith("sources/")} == plain


def test_examples_without_a_source_have_a_name():
    examples = [replace(example, source="a" * (i % 2)) for i, example in enumerate(rows(4))]
    _, stepper = ready(dpo(), WHOLE)
    means = replace(stepper, sources=("", "a")).evaluate(examples).metric_sums.means()
    assert means["sources/(none)/examples"] == means["sources/a/examples"] == 2
