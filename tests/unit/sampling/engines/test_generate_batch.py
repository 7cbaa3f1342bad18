"""Continuous batching of transformers: right log-probabilities of both kinds, order kept, the model left as it was."""

import numpy as np
import pytest
import torch

from support.errors import raises
from support.tiny_policies import VOCAB, make_policy
from tiltlm.core.errors import ConfigError
from tiltlm.core.example import Response, token_ids
from tiltlm.sampling import SamplingSettings
from tiltlm.sampling.drawing import _truncated
from tiltlm.sampling.engines.generate_batch import GenerateBatchEngine

PROMPTS = [token_ids([5, 6]), token_ids([7, 8, 9, 10, 11]), token_ids([12])]


def logits_after(policy, prompt, response: Response) -> torch.Tensor:
    """Return the logits before each token of a response, by a plain forward."""
    ids = torch.tensor([[*prompt.tolist(), *response.token_ids.tolist()]])
    with torch.no_grad(), policy.stock_attention():
        return policy.model(ids).logits[0, len(prompt) - 1 : -1].float()


@pytest.mark.parametrize("knobs", [{"temperature": 0.7, "top_k": 30, "top_p": 0.9}, {"temperature": 1.3, "min_p": 0.1}])
def test_both_log_probabilities_are_those_of_a_plain_forward(knobs):
    policy = make_policy(seed=1)
    with torch.no_grad():
        policy.get_output_embeddings().weight.mul_(8)
    attention = policy.config._attn_implementation
    settings = SamplingSettings(6, **knobs)
    batch = GenerateBatchEngine(policy, "d").draw(PROMPTS, 3, settings, seed=0, end_token_ids=[3])
    assert policy.config._attn_implementation == attention
    assert [len(own) for own in batch.answers] == [3, 3, 3]
    assert len({tuple(a.token_ids.tolist()) for own in batch.answers for a in own}) > 3
    for prompt, own in zip(PROMPTS, batch.answers, strict=True):
        for answer in own:
            assert answer.ended == (answer.token_ids[-1] == 3)
            assert answer.ended or len(answer.token_ids) == 6
            logits = logits_after(policy, prompt, answer.response)
            tokens = torch.from_numpy(answer.token_ids.astype(np.int64))[:, None]
            plain = logits.log_softmax(-1).gather(-1, tokens).sum().item()
            drawn = _truncated(logits / settings.temperature, settings).log_softmax(-1).gather(-1, tokens).sum().item()
            assert answer.logp == pytest.approx(plain, abs=1e-3)
            assert answer.behaviour_logp == pytest.approx(drawn, abs=1e-3)


def test_temperature_zero_takes_the_most_probable():
    policy = make_policy(seed=1)
    batch = GenerateBatchEngine(policy, "d").draw(
        PROMPTS, 1, SamplingSettings(4, temperature=0), seed=0, end_token_ids=[VOCAB - 1]
    )
    for prompt, (answer,) in zip(PROMPTS, batch.answers, strict=True):
        logits = logits_after(policy, prompt, answer.response)
        assert answer.token_ids.tolist() == logits.argmax(-1).tolist()
        assert answer.behaviour_logp == 0
        assert answer.logp < 0


def test_a_model_without_it_is_refused(monkeypatch):
    policy = make_policy()

    class Bare:
        pass

    monkeypatch.setattr(type(policy), "bare_model", property(lambda self: Bare()))
    with raises(ConfigError, "not_supported", key="engine.name"):
        GenerateBatchEngine(policy, "d").draw(PROMPTS, 1, SamplingSettings(4), seed=0, end_token_ids=[3])
