"""Batch metrics worked out by hand, and their sums over packs."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from tiltlm.core import (
    Comparison,
    Demonstrations,
    Example,
    Pairs,
    Response,
    ResponseLogps,
    ResponseScores,
    UnpairedResponses,
)
from tiltlm.core.example import token_ids
from tiltlm.diagnostics import MetricSums, metric_sums
from tiltlm.links import Logistic
from tiltlm.objectives import Unpaired, build
from tiltlm.rewards import Learned, Reward

TOKENS = [2, 4, 1, 3]
LOGPS = [-1.0, -0.5, -3.0, -1.0]  # per token, so S = −2, −2, −3, −3
REF_SUMS = [-3.0, -2.0, -1.0, -3.0]  # so log-ratios 1, 0, −2, 0


def responses() -> ResponseLogps:
    num_tokens = torch.tensor(TOKENS)
    return ResponseLogps(
        token_logps=torch.tensor(LOGPS).repeat_interleave(num_tokens).requires_grad_(),
        response_index=torch.arange(4).repeat_interleave(num_tokens),
        num_tokens=num_tokens,
        ref_seq_logps=torch.tensor(REF_SUMS, dtype=torch.float64),
    )


def example(num_responses: int, comparisons=(), labels=(), weight: float = 1.0) -> Example:
    rows = tuple(Response(token_ids([5])) for _ in range(num_responses))
    return Example("row", token_ids([1]), rows, tuple(comparisons), tuple(labels), weight=weight)


def pairs(weight: float = 1.0) -> Pairs:
    """Example 0 compares 0 ≻ 2 and 1 ≻ 0, example 1 has one tie, 1 against 3."""
    rows = [
        example(3, [Comparison(0, 2), Comparison(1, 0)]),
        example(4, [Comparison(1, 3)], weight=weight),
    ]
    return Pairs.of(rows, [[0, 1, 2], [0, 1, 2, 3]])


def test_metrics_of_comparisons():
    means = metric_sums(build("dpo", beta=0.5), responses(), pairs()).means()
    # Rewards ½·(1, 0, −2, 0); the two comparisons of example 0 share its vote: weights ¼, ¼, ½.
    assert means == pytest.approx(
        {
            "rewards/chosen": 0.25 * 0.5 + 0.25 * 0.0 + 0.5 * 0.0,
            "rewards/rejected": 0.25 * -1.0 + 0.25 * 0.5 + 0.5 * 0.0,
            "rewards/margins": 0.25 * 1.5 + 0.25 * -0.5,
            "rewards/accuracies": 0.25 + 0.0 + 0.5 * 0.5,
            "rewards/ties": 0.5,
            "logps/chosen": 0.25 * -2 + 0.25 * -2 + 0.5 * -2,
            "logps/rejected": 0.25 * -3 + 0.25 * -2 + 0.5 * -3,
            "logps_per_token/chosen": 0.25 * -1 + 0.25 * -0.5 + 0.5 * -0.5,
            "logps_per_token/rejected": 0.25 * -3 + 0.25 * -1 + 0.5 * -1,
        }
    )


def test_an_example_counts_once_whatever_its_weight_and_not_at_all_at_zero():
    objective = build("dpo", beta=0.5)
    assert metric_sums(objective, responses(), pairs(weight=7.0)).means() == pytest.approx(
        metric_sums(objective, responses(), pairs()).means()
    )
    without = metric_sums(objective, responses(), pairs(weight=0.0)).means()
    assert without["rewards/margins"] == pytest.approx(0.5 * 1.5 + 0.5 * -0.5)
    assert without["rewards/ties"] == 0.0


def test_accuracy_is_expected_agreement_with_soft_labels():
    rows = [example(3, [Comparison(0, 2, preference=0.8)]), example(3, [Comparison(2, 0, preference=0.3)])]
    view = Pairs.of(rows, [[0, 1, 2], [0, 1, 2]])
    assert metric_sums(build("dpo"), responses(), view).means()["rewards/accuracies"] == pytest.approx((0.8 + 0.7) / 2)


def test_metrics_of_single_labels():
    rows = [example(3, labels=[True, False, False])]
    view = UnpairedResponses.of(rows, [[0, 1, 2]]).with_baseline(0.25)
    means = metric_sums(build("kto", beta=0.5), responses(), view).means()
    assert means["rewards/chosen"] == pytest.approx(0.5)
    assert means["rewards/rejected"] == pytest.approx((0.0 - 1.0) / 2)
    assert means["rewards/margins"] == pytest.approx(1.0)
    assert means["kl"] == pytest.approx(0.25)
    assert means["logps_per_token/rejected"] == pytest.approx((-0.5 - 3.0) / 2)


def test_a_pack_without_a_side_has_the_same_names():
    both = UnpairedResponses.of([example(2, labels=[True, False])], [[0, 1]])
    good = UnpairedResponses.of([example(2, labels=[True, True])], [[0, 1]])
    objective = build("kto")
    assert list(metric_sums(objective, responses(), good).sums) == list(metric_sums(objective, responses(), both).sums)
    means = metric_sums(objective, responses(), good).means()
    assert "rewards/rejected" not in means
    assert "rewards/margins" not in means


def test_demonstrations_report_nats_per_token():
    view = Demonstrations.of([example(1), example(1)], [[0], [1]])
    assert metric_sums(build("sft"), responses(), view).means() == pytest.approx({"nll": (2 + 2) / 6})


def test_packs_and_ranks_add_up_to_the_whole():
    objective, whole = build("dpo", beta=0.5), pairs()
    first = Pairs.of([example(3, [Comparison(0, 2), Comparison(1, 0)])], [[0, 1, 2]])
    second = Pairs.of([example(4, [Comparison(1, 3)])], [[0, 1, 2, 3]])
    parts = [metric_sums(objective, responses(), view) for view in (first, second)]
    expected = metric_sums(objective, responses(), whole).means()
    assert (MetricSums() + parts[0] + parts[1]).means() == pytest.approx(expected)
    reduced = parts[0].with_vector(parts[0].vector() + parts[1].vector())
    assert reduced.means() == pytest.approx(expected)


def test_metrics_carry_no_gradient():
    @dataclass(frozen=True)
    class Watching(Reward):
        seen: ClassVar[list[bool]] = []
        needs_reference: ClassVar[bool] = False

        def __call__(self, responses):
            reward = responses.seq_logps
            self.seen.append(reward.requires_grad)
            return reward

    objective = build("simpo")
    watched = type(objective)(reward=Watching(), link=objective.link)
    metric_sums(watched, responses(), pairs())
    assert Watching.seen == [False]


@pytest.mark.parametrize("kind", ["pairs", "unpaired"])
def test_a_reward_model_has_rewards_and_no_log_probabilities(kind):
    scored = ResponseScores(torch.tensor([1.0, 0.0, -2.0, 0.0]), torch.ones(4, dtype=torch.long))
    if kind == "pairs":
        means = metric_sums(build("reward_model"), scored, pairs()).means()
        # As worked out above for rewards twice as large.
        assert means["rewards/chosen"] == pytest.approx(0.25)
        assert means["rewards/margins"] == pytest.approx(0.25 * 3 + 0.25 * -1)
        assert means["rewards/accuracies"] == pytest.approx(0.25 + 0.5 * 0.5)
    else:
        unpaired = UnpairedResponses.of([example(2, labels=[True, False])], [[0, 2]])
        means = metric_sums(Unpaired(Learned(), Logistic()), scored, unpaired).means()
        assert means == {"rewards/chosen": 1.0, "rewards/rejected": -2.0, "rewards/margins": 3.0}
    assert not [name for name in means if "logps" in name]
