"""Log-probabilities of answers that came without: those of separate forwards, in any parts."""

import numpy as np
import pytest

from support.tiny_policies import make_policy
from tiltlm.core.example import token_ids
from tiltlm.logprobs.plain import separate_logps
from tiltlm.sampling.engines import EngineAnswer, rescoring

PROMPTS = [token_ids([5, 6]), token_ids([7, 8, 9])]


def answer(*ids: int) -> EngineAnswer:
    return EngineAnswer(token_ids(ids), True, None, -1.0)


@pytest.mark.parametrize("most", [4, 12, 10_000])
def test_each_answer_gets_its_own(monkeypatch, most):
    monkeypatch.setattr(rescoring, "MAX_TOKENS", most)
    policy = make_policy()
    answers = [[answer(4, 5, 6), answer(7), answer(4, 5, 6)], []]
    answers[1] = [answer(9, 9, 9, 9, 9, 9)]
    found = rescoring.with_logps(policy, PROMPTS, answers)
    for prompt, own, before in zip(PROMPTS, found, answers, strict=True):
        for one, given in zip(own, before, strict=True):
            with policy.stock_attention():
                expected = separate_logps(policy.model, prompt, given.response).sum().item()
            np.testing.assert_allclose(one.logp, expected, atol=1e-4)
            assert one.token_ids is given.token_ids
            assert one.behaviour_logp == -1.0
    assert rescoring.with_logps(policy, PROMPTS, [[], []]) == [[], []]
