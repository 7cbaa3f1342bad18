"""CHES against plain forwards that return their hidden states, and what a theory of one step says about it."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from support.errors import raises
from tiltlm.core import Comparison, Example, ModelError, Response, token_ids
from tiltlm.evaluation.ches import ches, comparison_ches, summarise_ches
from tiltlm.logprobs.head.states import Head


def pair(name, prompt, chosen, rejected):
    return Example(
        name, token_ids(prompt), (Response(token_ids(chosen)), Response(token_ids(rejected))), (Comparison(0, 1),)
    )


EXAMPLES = [
    pair("a", [1, 4, 7], [5, 6, 2], [9, 2]),
    pair("b", [1, 9], [3], [8, 8, 8, 8, 2]),
    Example(
        "c",
        token_ids([1, 4, 7]),
        tuple(Response(token_ids(ids)) for ids in ([5, 6, 2], [7, 2], [11, 12, 13, 2])),
        (Comparison(0, 2), Comparison(1, 2), Comparison(0, 1)),
    ),
    Example("d", token_ids([2, 3]), (Response(token_ids([4, 2])),)),
]


def mean_state(policy, prompt, response):
    """Mean of the states that predict the response's tokens: from the last prompt token to the last but one."""
    ids = torch.tensor([[*prompt.tolist(), *response.token_ids.tolist()]])
    with policy.stock_attention(), torch.no_grad():
        states = policy.model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0]
    return states[len(prompt) - 1 : -1].double().mean(0).numpy()


@pytest.mark.parametrize("max_tokens", [1, 10, 1000])
def test_is_what_plain_forwards_give(tiny_policy, max_tokens):
    policy = tiny_policy(0)
    found = comparison_ches(policy, EXAMPLES, max_tokens)
    for example, values in zip(EXAMPLES, found, strict=True):
        means = [mean_state(policy, example.prompt_ids, r) for r in example.responses]
        expected = [
            means[c.chosen] @ means[c.rejected] - means[c.chosen] @ means[c.chosen] for c in example.comparisons
        ]
        assert values == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert found[3].size == 0


def test_equal_and_opposite_sums():
    state = np.array([[1.0, 2.0, -1.0]])
    assert ches(state, state) == pytest.approx([0.0])
    assert ches(state, -state) == pytest.approx([-12.0])
    assert ches(state, 3 * state) == pytest.approx([12.0])


def test_predicts_which_pair_loses_probability():
    """One step on one pair: with h the states and W the head, d S(chosen) contains −CHES times the step."""
    torch.manual_seed(0)
    states = torch.randn(40, 6, dtype=torch.float64)
    shifts, values = [], []
    head = torch.zeros(12, 6, dtype=torch.float64)
    for i in range(0, 40, 2):
        a, b = states[i], states[i + 1]
        weight = head.clone().requires_grad_()
        logps = [torch.log_softmax(weight @ h, -1)[t] for h, t in ((a, 3), (b, 3))]  # the same token after both states
        (logps[0] - logps[1]).backward()
        with torch.no_grad():
            moved = torch.log_softmax((head + 1e-4 * weight.grad) @ a, -1)[3] - logps[0]
        shifts.append(float(moved))
        values.append(float(ches(a[None].numpy(), b[None].numpy())[0]))
    assert np.corrcoef(shifts, values)[0, 1] < -0.99


def test_summary_and_its_correlation_with_the_shift():
    rng = np.random.default_rng(0)
    values = [np.array([x]) for x in rng.normal(size=200)]
    shifts = [-2 * float(v[0]) + 0.3 * rng.normal() for v in values]
    found = summarise_ches(values, shifts, np.arange(200))
    assert found.num_comparisons == 200
    assert found.quantiles["50 %"] == pytest.approx(np.median(np.concatenate(values)))
    assert found.with_shift.low < found.with_shift.estimate < -0.9
    assert found.with_shift.high < -0.9


def test_intervals_of_unrelated_shifts_cover_zero():
    rng = np.random.default_rng(1)
    hits = 0
    for seed in range(100):
        values, shifts = [np.array([x]) for x in rng.normal(size=60)], rng.normal(size=60).tolist()
        found = summarise_ches(values, shifts, np.arange(60), seed=seed).with_shift
        hits += found.low < 0 < found.high
    assert 88 <= hits <= 100


def test_correlation_is_spearmans():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=30), rng.integers(5, size=30).astype(float)
    found = summarise_ches([np.array([x]) for x in a], b.tolist(), np.arange(30)).with_shift
    assert found.estimate == pytest.approx(spearmanr(a, b).statistic)


def test_nothing_to_summarise_and_no_variation():
    assert summarise_ches([np.empty(0)]) is None
    assert summarise_ches([np.ones(1)] * 3, [1.0, 2.0, 3.0], np.arange(3)).with_shift is None


def test_a_head_of_unknown_form_is_refused(tiny_policy):
    policy = tiny_policy(0)
    policy.head = Head("model")
    with raises(ModelError, "not_supported"):
        comparison_ches(policy, EXAMPLES, 100)
