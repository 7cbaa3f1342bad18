"""Samples before and after: KL against a plain computation, lengths, cuts and texts."""

import numpy as np
import pytest
import torch

from support.errors import raises
from tiltlm.core import ConfigError, ResponseLogps, pack_trees, token_ids
from tiltlm.evaluation import compare_samples, draw_samples, sample_texts
from tiltlm.evaluation.samples import SampleSet, score_samples
from tiltlm.logprobs import separate_logps
from tiltlm.reference import Reference
from tiltlm.sampling import Sampled

PROMPTS = [token_ids([1, 4, 5]), token_ids([1, 9])]


class ModelAtHand(Reference):
    """Another policy as the reference, without a store."""

    def __init__(self, policy):
        self.policy = policy

    def attach(self, responses: ResponseLogps, trees) -> ResponseLogps:
        return responses.with_reference(self.policy(pack_trees(trees)).token_logps)


def drawn(policy, reference, max_tokens=200, **changes):
    settings = {"n": 6, "max_new_tokens": 5, "seed": 3, "end_token_ids": [2]} | changes
    return draw_samples(policy, PROMPTS, reference=reference, max_tokens=max_tokens, **settings)


def test_kl_of_a_policy_to_itself_is_zero(tiny_policy):
    policy = tiny_policy(0)
    draws = drawn(policy, ModelAtHand(policy))
    kl = draws.sequence_kl()
    assert (kl.k1.estimate, kl.k1.low, kl.k1.high) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("max_tokens", [4, 200])
def test_samples_are_scored_as_separate_forwards_score_them(tiny_policy, max_tokens):
    policy, reference = tiny_policy(0), tiny_policy(1)
    draws = drawn(policy, ModelAtHand(reference), max_tokens)
    for p, own in enumerate(draws.samples):
        for k, sampled in enumerate(own):
            for model, found in ((policy, draws.logps), (reference, draws.ref_logps)):
                with model.stock_attention(), torch.no_grad():
                    plain = separate_logps(model.model, PROMPTS[p], sampled.response).double().sum().item()
                assert found[p, k] == pytest.approx(plain, abs=1e-5)
            assert draws.logps[p, k] == pytest.approx(sampled.token_logps.sum(), abs=1e-4)


def test_kl_is_the_mean_log_ratio_by_prompt(tiny_policy):
    draws = drawn(tiny_policy(0), ModelAtHand(tiny_policy(1)))
    found = draws.sequence_kl().k1
    assert found.estimate == pytest.approx(float((draws.logps - draws.ref_logps).mean()))
    assert found.n == 2


def test_one_seed_one_set_of_samples(tiny_policy):
    policy = tiny_policy(0)
    once, again, other = drawn(policy, None), drawn(policy, None), drawn(policy, None, seed=4)
    assert (once.logps == again.logps).all()
    assert (once.num_tokens == again.num_tokens).all()
    assert once.logps.shape == other.logps.shape
    assert (once.logps != other.logps).any()


def made_up(lengths: list[list[int]], ended: list[list[bool]], gap: float | None) -> SampleSet:
    samples = tuple(
        tuple(
            Sampled(token_ids(range(n)), e, np.zeros(n, np.float32), np.zeros(n, np.float32))
            for n, e in zip(*own, strict=True)
        )
        for own in zip(lengths, ended, strict=True)
    )
    logps = -np.array(lengths, dtype=np.float64)
    prompts = tuple(token_ids([1, p]) for p in range(len(lengths)))
    return SampleSet(prompts, samples, logps, None if gap is None else logps - gap, 4)


def test_lengths_cuts_and_kl_by_hand():
    before = made_up([[1, 3], [2, 2]], [[True, True], [True, True]], 0.0)
    after = made_up([[4, 4], [3, 1]], [[False, True], [True, True]], 0.5)
    found = compare_samples(before, after)
    assert (found.before.length.estimate, found.after.length.estimate) == (2.0, 3.0)
    assert found.length_difference.estimate == pytest.approx(1.0)
    assert (found.length_difference.low, found.length_difference.high) == (0.0, 2.0)
    assert (found.before.cut_share, found.after.cut_share) == (0.0, 0.25)
    assert (found.before.kl.estimate, found.after.kl.estimate) == (0.0, 0.5)
    assert found.after.kl_k3.estimate == pytest.approx(np.exp(-0.5) - 1 + 0.5)
    assert (found.num_prompts, found.samples_per_prompt, found.max_new_tokens) == (2, 2, 4)


def test_without_a_reference_there_is_no_kl():
    draws = made_up([[1], [2]], [[True], [True]], None)
    found = compare_samples(draws, draws)
    assert found.after.kl is None
    assert found.after.kl_k3 is None
    assert found.after.length.estimate == 1.5


def test_other_prompts_are_refused():
    two, three = made_up([[1]] * 2, [[True]] * 2, None), made_up([[1]] * 3, [[True]] * 3, None)
    with raises(ConfigError, "other_rows"):
        compare_samples(two, three)


def test_texts_side_by_side():
    before = made_up([[1, 2], [3, 1]], [[True, True]] * 2, None)
    after = made_up([[2, 2, 1], [1, 1, 1]], [[True] * 3] * 2, None)

    def decode(ids):
        return "".join("abcd"[i] for i in ids)

    gold = [[3, 4], [0, 0]], [[4, 5, 6], [0, 0, 0]]
    found = sample_texts(before, after, decode, num_prompts=1, samples_per_prompt=5, gold=gold)
    assert len(found) == 1
    assert (found[0].prompt, found[0].before, found[0].after) == ("ba", ("a", "ab"), ("ab", "ab"))
    assert (found[0].gold_before, found[0].gold_after) == ((3, 4), (4, 5))
    assert sample_texts(before, after, decode)[1].gold_after is None


def test_scoring_keeps_the_mode_and_builds_no_graph(tiny_policy):
    policy = tiny_policy(0).train()
    samples = [[Sampled(token_ids([3, 2]), True, np.zeros(2, np.float32), np.zeros(2, np.float32))]] * 2
    logps, ref_logps = score_samples(policy, PROMPTS, samples, ModelAtHand(policy), 100)
    assert logps.shape == (2, 1)
    assert (logps == ref_logps).all()
    assert policy.training


def test_without_a_reference_the_sampler_s_own_log_probabilities_are_kept(tiny_policy):
    draws = drawn(tiny_policy(0), None)
    assert draws.ref_logps is None
    assert draws.sequence_kl() is None
    scored = drawn(tiny_policy(0), ModelAtHand(tiny_policy(1)))
    assert draws.logps == pytest.approx(scored.logps, abs=1e-4)


def test_an_untrained_policy_that_is_the_reference_needs_no_scoring():
    before, after = made_up([[1], [2]], [[True]] * 2, None), made_up([[1], [2]], [[True]] * 2, 0.5)
    found = compare_samples(before, after, starts_at_reference=True)
    assert (found.before.kl.estimate, found.before.kl.low, found.before.kl.high) == (0.0, 0.0, 0.0)
    assert found.after.kl.estimate == 0.5
    assert compare_samples(before, after).before.kl is None
    assert compare_samples(before, before, starts_at_reference=True).before.kl is None
