"""The autoregressive toy against loops over its prefixes in plain Python."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from support.errors import raises
from tiltlm.core import ConfigError
from tiltlm.worlds.autoregressive import AutoregressiveWorld

SIZES = [(1, 2), (2, 2), (2, 3), (3, 4)]


def table(world: AutoregressiveWorld, seed: int = 0) -> Tensor:
    shape = (len(world.prefixes), world.vocabulary)
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 1.5, shape))


def spelled_out(world: AutoregressiveWorld, logits: Tensor) -> dict[tuple[int, ...], list[float]]:
    """Log-probability of every token of every response, by walking through it."""
    rows = {prefix: torch.softmax(row, 0).tolist() for prefix, row in zip(world.prefixes, logits, strict=True)}
    logs = {}
    for n in range(world.limit):
        for letters in product(range(world.num_letters), repeat=n):
            sequence = (*letters, world.end)
            logs[sequence] = [
                math.log(rows[sequence[:t]][v]) if sequence[:t] in rows else 0.0 for t, v in enumerate(sequence)
            ]
    return logs


@pytest.mark.parametrize(("letters", "limit"), SIZES)
def test_all_responses_and_their_tokens(letters, limit):
    world = AutoregressiveWorld(letters, limit)
    logits = table(world)
    responses, expected = world.responses(logits), spelled_out(world, logits)
    assert list(expected) == list(world.sequences)
    assert len(world.sequences) == sum(letters**n for n in range(limit))
    np.testing.assert_allclose(responses.token_logps.numpy(), np.concatenate(list(expected.values())), atol=1e-12)
    assert responses.num_tokens.tolist() == [len(s) for s in world.sequences]
    assert responses.response_index.tolist() == [k for k, s in enumerate(world.sequences) for _ in s]


@pytest.mark.parametrize(("letters", "limit"), SIZES)
def test_probabilities_sum_to_one(letters, limit):
    world = AutoregressiveWorld(letters, limit)
    assert float(world.seq_logps(table(world)).exp().sum()) == pytest.approx(1.0, abs=1e-12)


def test_how_often_a_prefix_is_reached():
    world = AutoregressiveWorld(2, 4)
    logits = table(world)
    mass = world.seq_logps(logits).exp()
    begins = [
        sum(float(m) for m, s in zip(mass, world.sequences, strict=True) if s[: len(p)] == p) for p in world.prefixes
    ]
    np.testing.assert_allclose(world.reach(logits).numpy(), begins, atol=1e-12)


def test_extras_are_those_of_the_next_token():
    world = AutoregressiveWorld(2, 3)
    logits, ref = table(world), table(world, 1)
    responses = world.responses(logits, ref)
    rows = {
        p: (torch.softmax(a, 0).numpy(), torch.softmax(b, 0).numpy())
        for p, a, b in zip(world.prefixes, logits, ref, strict=True)
    }
    at = 0
    for sequence in world.sequences:
        for t in range(len(sequence)):
            p, q = rows.get(sequence[:t], (np.ones(1), np.ones(1)))
            assert float(responses.extra("log_collisions")[at]) == pytest.approx(np.log((p**2).sum()), abs=1e-12)
            assert float(responses.extra("entropies")[at]) == pytest.approx(-(p * np.log(p)).sum(), abs=1e-12)
            assert float(responses.extra("ref_kls")[at]) == pytest.approx((q * np.log(q / p)).sum(), abs=1e-12)
            share = -(q * np.log(q)).sum() / np.log(logits.shape[1])
            assert float(responses.extra("ref_entropy_shares")[at]) == pytest.approx(share, abs=1e-12)
            at += 1


def test_gradients_are_finite_where_the_end_is_forced_and_none_reaches_the_reference():
    world = AutoregressiveWorld(2, 3)
    logits, ref = table(world).requires_grad_(), table(world, 1).requires_grad_()
    responses = world.responses(logits, ref)
    (responses.token_logps.sum() + responses.extra("ref_kls").sum()).backward()
    assert torch.isfinite(logits.grad).all()
    assert ref.grad is None
    assert not any(
        responses.extra(name).requires_grad for name in ("log_collisions", "entropies", "ref_entropy_shares")
    )


def test_kl_of_each_row():
    world = AutoregressiveWorld(2, 3)
    logits, ref = table(world), table(world, 1)
    p, q = torch.softmax(logits, 1).numpy(), torch.softmax(ref, 1).numpy()
    np.testing.assert_allclose(world.row_kl(logits, ref).numpy(), [*(p * np.log(p / q)).sum(1), 0.0], atol=1e-12)


def test_a_table_is_found_again_from_its_responses():
    world = AutoregressiveWorld(3, 4)
    logits = table(world)
    torch.testing.assert_close(world.logits_of(world.seq_logps(logits)), torch.log_softmax(logits, 1))


@pytest.mark.parametrize(("letters", "limit", "key"), [(0, 3, "num_letters"), (2, 1, "limit")])
def test_a_world_without_a_decision_is_refused(letters, limit, key):
    with raises(ConfigError, "out_of_range", key=key):
        AutoregressiveWorld(letters, limit)
