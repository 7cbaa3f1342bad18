"""Samples of a mixture of two models, compared with plain forwards of both."""

import copy
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import transformers

from tiltlm.core.example import TokenIds, token_ids
from tiltlm.logprobs.policy import PolicyModule
from tiltlm.reference.weights import swapped
from tiltlm.sampling import Sampled, SamplingSettings, sample
from tiltlm.sampling.decoding import Mixture
from tiltlm.sampling.engines.own import OwnEngine

VOCAB, END = 40, 3
SETTINGS = SamplingSettings(max_new_tokens=10)


def build(seed: int) -> PolicyModule:
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(8)
    return PolicyModule(model.eval(), layout="padded")


@pytest.fixture(scope="module")
def models() -> tuple[PolicyModule, PolicyModule]:
    return build(0), build(1)


def prompts() -> list[TokenIds]:
    rng = np.random.default_rng(1)
    return [token_ids(rng.integers(4, VOCAB, length)) for length in (3, 6, 4)]


def draw(policy: PolicyModule, mixture: Mixture | None, settings: SamplingSettings = SETTINGS) -> list[list[Sampled]]:
    return sample(policy, prompts(), 4, settings, seed=7, end_token_ids=[END], mixture=mixture)


def tokens(samples: list[list[Sampled]]) -> list[list[list[int]]]:
    return [[one.token_ids.tolist() for one in own] for own in samples]


@torch.no_grad()
def next_logps(policy: PolicyModule, prompt: TokenIds, answer: TokenIds) -> torch.Tensor:
    """Return the log-distribution before each token of an answer, by one plain forward."""
    ids = torch.from_numpy(np.concatenate([prompt, answer]).astype(np.int64))[None]
    return policy.model(input_ids=ids).logits[0].log_softmax(-1)[len(prompt) - 1 : -1]


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_log_probabilities_are_those_of_the_mixed_distributions(models, share):
    policy, other = models
    for prompt, own in zip(prompts(), draw(policy, Mixture(other, nullcontext, share)), strict=True):
        for one in own:
            both = [next_logps(module, prompt, one.token_ids) for module in models]
            mixed = ((1 - share) * both[0] + share * both[1]).log_softmax(-1)
            expected = mixed[torch.arange(len(one.token_ids)), torch.from_numpy(one.token_ids.astype(np.int64))]
            np.testing.assert_allclose(one.token_logps, expected.numpy(), atol=2e-4)
            np.testing.assert_array_equal(one.behaviour_logps, one.token_logps)


def test_a_share_near_zero_or_one_draws_what_one_model_draws(models):
    policy, other = models
    alone = {module: tokens(draw(module, None)) for module in models}
    assert alone[policy] != alone[other]
    assert tokens(draw(policy, Mixture(other, nullcontext, 1e-7))) == alone[policy]
    assert tokens(draw(policy, Mixture(other, nullcontext, 1 - 1e-7))) == alone[other]


def test_the_reference_alone_is_drawn_by_its_own_module(models):
    policy, other = models
    batch = OwnEngine(policy, "", Mixture(other, nullcontext, 1.0)).draw(
        prompts(), 4, SETTINGS, seed=7, end_token_ids=[END]
    )
    found = [[answer.token_ids.tolist() for answer in own] for own in batch.answers]
    assert found == tokens(draw(other, None))


def test_other_weights_in_the_same_module(models):
    """As an adapter's reference has them: put in place for each of its forwards, and only for these."""
    policy, other = models
    module = copy.deepcopy(policy)
    own = dict(module.named_parameters())
    before = {name: tensor.detach().clone() for name, tensor in own.items()}
    frozen = {name: tensor.detach().clone() for name, tensor in other.named_parameters()}
    found = draw(module, Mixture(module, lambda: swapped(module, own, frozen), 0.5))
    assert tokens(found) == tokens(draw(policy, Mixture(other, nullcontext, 0.5)))
    assert all(torch.equal(before[name], tensor) for name, tensor in module.named_parameters())


def test_truncation_is_that_of_the_mixture(models):
    policy, other = models
    greedy = draw(policy, Mixture(other, nullcontext, 0.5), SamplingSettings(max_new_tokens=4, temperature=0))
    for prompt, own in zip(prompts(), greedy, strict=True):
        both = [next_logps(module, prompt, own[0].token_ids) for module in models]
        assert own[0].token_ids.tolist() == (both[0] + both[1]).argmax(-1).tolist()
