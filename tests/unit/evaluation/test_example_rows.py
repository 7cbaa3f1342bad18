"""The table of responses against one plain forward per sequence."""

import pytest
import torch

from support.errors import raises
from tiltlm.core import (
    Comparison,
    ConfigError,
    Example,
    NumericsError,
    Response,
    ResponseLogps,
    ResponseScores,
    token_ids,
)
from tiltlm.evaluation import measure_examples
from tiltlm.logprobs import separate_logps
from tiltlm.objectives import dpo, reward_model, simpo
from tiltlm.reference import Reference


def examples() -> list[Example]:
    """Two rows share a prompt and a response; one response has scored tokens of its own."""
    shared = Response(token_ids([5, 6, 2]))
    return [
        Example("a", token_ids([1, 4]), (shared, Response(token_ids([7, 2]))), (Comparison(0, 1),)),
        Example("b", token_ids([1, 9, 8]), (Response(token_ids([3])),), labels=(True,)),
        Example("c", token_ids([1, 4]), (Response(token_ids([8, 9, 10, 2]), scored=token_ids([1, 3])), shared)),
    ]


class PlainReference(Reference):
    """Sums of a model by separate forwards."""

    def __init__(self, policy):
        self.policy = policy

    def attach(self, responses: ResponseLogps, trees) -> ResponseLogps:
        with self.policy.stock_attention():
            sums = [
                separate_logps(self.policy.model, t.prompt_ids, r).double().sum() for t in trees for r in t.responses
            ]
        return responses.with_reference_sums(torch.stack(sums))


@pytest.mark.parametrize("max_tokens", [1, 8, 1000])
def test_every_response_as_a_separate_forward_has_it(tiny_policy, max_tokens):
    policy, reference = tiny_policy(0), tiny_policy(1)
    found = measure_examples(policy, examples(), dpo(beta=0.5), PlainReference(reference), max_tokens)
    assert [row.id for row in found] == ["a", "b", "c"]
    for row, example in zip(found, examples(), strict=True):
        assert (row.comparisons, row.labels) == (example.comparisons, example.labels)
        for measured, response in zip(row.responses, example.responses, strict=True):
            sums = []
            for model in (policy, reference):
                with model.stock_attention(), torch.no_grad():
                    sums.append(separate_logps(model.model, example.prompt_ids, response).double().sum().item())
            assert measured.logps == pytest.approx(sums[0], abs=1e-5)
            assert measured.reward == pytest.approx(0.5 * (sums[0] - sums[1]), abs=1e-5)
            assert measured.num_tokens == response.num_tokens
            assert measured.mean_logps == pytest.approx(sums[0] / response.num_tokens, abs=1e-5)
    assert found[0].responses[0] == found[2].responses[1]


def test_prompts_differ_by_their_tokens(tiny_policy):
    a, b, c = measure_examples(tiny_policy(0), examples(), simpo(), None, 100)
    assert a.prompt == c.prompt != b.prompt


def test_an_objective_that_needs_a_reference_says_so(tiny_policy):
    with raises(ConfigError, "needs_reference", key="reference.name"):
        measure_examples(tiny_policy(0), examples(), dpo(), None, 100)


def test_the_module_is_left_as_it_was(tiny_policy):
    policy = tiny_policy(0).train()
    measure_examples(policy, examples(), simpo(), None, 100)
    assert policy.training
    assert all(p.grad is None for p in policy.parameters())


def test_a_diverged_policy_is_named_and_not_averaged(tiny_policy):
    policy = tiny_policy(0)
    with torch.no_grad():
        policy.get_output_embeddings().weight[7] = torch.nan
    with raises(NumericsError, "not_finite", row="a", mentions=["a: response 0"]) as caught:
        measure_examples(policy, examples(), simpo(), None, 100)
    assert str(caught.value).count("nan") == 2, "its log-probability and its reward"


def test_nothing_held_out(tiny_policy):
    with raises(ConfigError, "needs_held_out", key="data.eval_fraction", mentions=["data.eval_fraction"]):
        measure_examples(tiny_policy(0), [], simpo(), None, 100)


class LastToken(torch.nn.Module):
    """Scores a response by its last token's id: what the forest reads is that token."""

    def forward(self, forest):
        return ResponseScores(forest.token_ids[forest.predicts].float(), forest.num_tokens)


@pytest.mark.parametrize("max_tokens", [1, 1000])
def test_a_reward_model_is_measured_at_the_last_token(max_tokens):
    found = measure_examples(LastToken(), examples(), reward_model(), None, max_tokens)
    for row, example in zip(found, examples(), strict=True):
        for measured, response in zip(row.responses, example.responses, strict=True):
            assert measured.reward == response.token_ids[-1]
            assert (measured.logps, measured.mean_logps) == (None, None)
            assert measured.num_tokens == response.num_tokens, "lengths are compared, whatever was read"


def test_a_broken_reward_model_is_named():
    class Broken(LastToken):
        def forward(self, forest):
            responses = super().forward(forest)
            return ResponseScores(responses.scores * torch.nan, forest.num_tokens)

    with raises(NumericsError, "not_finite", row="a", mentions=["a: response 0"]) as caught:
        measure_examples(Broken(), examples(), reward_model(), None, 100)
    assert str(caught.value).count("nan") == 1, "its reward"
