"""Where probability went, against plain forwards and policies whose change is known."""

import copy

import numpy as np
import pytest
import torch

from tiltlm.core import Comparison, Example, Response, token_ids
from tiltlm.evaluation.third_responses import (
    KINDS,
    choose_third_responses,
    measure_shift,
    third_logps,
    top_token_logps,
)
from tiltlm.logprobs import separate_logps
from tiltlm.sampling import SamplingSettings, sample

EXAMPLES = [
    Example(
        "a",
        token_ids([1, 4]),
        (Response(token_ids([5, 6, 2])), Response(token_ids([7, 2]))),
        (Comparison(1, 0),),
    ),
    Example(
        "b",
        token_ids([1, 9, 8]),
        (Response(token_ids([3, 2])), Response(token_ids([4, 4, 2]))),
        (Comparison(0, 1),),
    ),
]
PROMPTS = [e.prompt_ids for e in EXAMPLES]


def chosen_third(policy):
    draws = sample(policy, PROMPTS, 3, SamplingSettings(5), seed=0, end_token_ids=[2])
    greedy = [s[0] for s in sample(policy, PROMPTS, 1, SamplingSettings(5, temperature=0.0), seed=0, end_token_ids=[2])]
    return choose_third_responses(PROMPTS, draws, greedy, EXAMPLES), draws, greedy


def test_what_is_chosen_and_its_log_probabilities(tiny_policy):
    policy = tiny_policy(0)
    third, draws, _ = chosen_third(policy)
    assert [KINDS[k] for k in third.kind] == ["samples"] * 3 + ["greedy", "others"] + ["samples"] * 3 + [
        "greedy",
        "others",
    ]
    assert third.prompt.tolist() == [0] * 5 + [1] * 5
    assert third.trees[0].responses[4].token_ids.tolist() == [3, 2], "the better response to the next prompt"
    assert third.trees[1].responses[4].token_ids.tolist() == [7, 2], "the comparison says which is better"
    found = third_logps(policy, third, 1000)
    with policy.stock_attention(), torch.no_grad():
        expected = [
            separate_logps(policy.model, tree.prompt_ids, r).double().sum().item()
            for tree in third.trees
            for r in tree.responses
        ]
    assert found == pytest.approx(expected, abs=1e-5)
    assert found[:3] == pytest.approx([s.token_logps.sum() for s in draws[0]], abs=1e-4)


@pytest.mark.parametrize("max_tokens", [1, 1000])
def test_top_token_along_the_better_responses(tiny_policy, max_tokens):
    policy = tiny_policy(0)
    expected = []
    for prompt, response in ((EXAMPLES[0].prompt_ids, [7, 2]), (EXAMPLES[1].prompt_ids, [3, 2])):
        ids = torch.tensor([[*prompt.tolist(), *response]])
        with policy.stock_attention(), torch.no_grad():
            logits = policy.model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
        expected.append(logits.log_softmax(-1).amax(-1).mean().item())
    assert top_token_logps(policy, EXAMPLES, max_tokens) == pytest.approx(expected, abs=1e-5)


def test_a_sharper_policy_gains_at_its_first_choice_and_loses_its_samples(tiny_policy):
    """Logits doubled: the greedy responses and the top token gain, the old policy's samples lose on average."""
    policy = tiny_policy(0)
    third, _, _ = chosen_third(policy)
    before, top_before = third_logps(policy, third, 1000), top_token_logps(policy, EXAMPLES, 1000)
    sharper = copy.deepcopy(policy)
    with torch.no_grad():
        sharper.model.lm_head.weight.mul_(8.0)
    after, top_after = third_logps(sharper, third, 1000), top_token_logps(sharper, EXAMPLES, 1000)
    found = measure_shift(third, before, after, top_before, top_after, np.arange(2), [False, True])
    assert found.greedy.estimate > 0
    assert found.top_token.estimate > 0
    assert found.samples.estimate < found.greedy.estimate
    assert found.others is not None
    assert found.greedy_changed.estimate == 0.5


def test_no_change_is_zero_and_one_prompt_has_no_other(tiny_policy):
    policy = tiny_policy(0)
    third, _, _ = chosen_third(policy)
    logps, top = third_logps(policy, third, 1000), top_token_logps(policy, EXAMPLES, 1000)
    found = measure_shift(third, logps, logps, top, top, np.arange(2), [False, False])
    assert [found.samples.estimate, found.greedy.estimate, found.top_token.estimate] == [0.0, 0.0, 0.0]
    draws = sample(policy, PROMPTS[:1], 2, SamplingSettings(4), seed=0, end_token_ids=[2])
    alone = choose_third_responses(PROMPTS[:1], draws, [draws[0][0]], EXAMPLES)
    assert 2 not in alone.kind
