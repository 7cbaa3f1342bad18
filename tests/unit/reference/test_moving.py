"""A reference that follows the policy: exact arithmetic, exact times, and nothing else moves."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from support.errors import raises
from tiltlm.core.errors import ConfigError
from tiltlm.core.forest import Tree, pack_trees
from tiltlm.logprobs.plain import plain_logps
from tiltlm.logprobs.policy import PolicyModule
from tiltlm.models.model_settings import ModelSettings
from tiltlm.reference import Computed, ReferenceSettings, base_digest, build_reference
from tiltlm.reference.moving import MovingReference

READ = frozenset({"ref_kls"})


def build(policy: PolicyModule, is_needed: bool = True, live: bool = False, **settings: object) -> MovingReference:
    loaded = SimpleNamespace(module=policy, tokenizer=None, settings=ModelSettings("unused"), sharding=None)
    return build_reference(
        ReferenceSettings("moving", **settings),  # type: ignore[arg-type]
        loaded,  # type: ignore[arg-type]
        is_needed=is_needed,
        max_tokens=100,
        live=live,
    )  # type: ignore[return-value]


def trained(policy: PolicyModule) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in policy.named_parameters() if p.requires_grad}


def move(policy: PolicyModule, seed: int = 0) -> dict[str, Tensor]:
    """Take a large step on the trained weights, and return a copy of them."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in trained(policy).values():
        tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator))
    return {name: tensor.clone() for name, tensor in trained(policy).items()}


def logps_with(policy: PolicyModule, weights: dict[str, Tensor], trees: list[Tree]) -> Tensor:
    """Compute log-probabilities with these weights in the same model, by one plain forward per sequence."""
    own = {name: tensor.clone() for name, tensor in trained(policy).items()}
    policy.load_state_dict(weights, strict=False)
    with torch.no_grad(), policy.stock_attention():
        values = plain_logps(policy.model, trees)
    policy.load_state_dict(own, strict=False)
    return values


def attached(reference: MovingReference, policy: PolicyModule, trees: list[Tree]) -> Tensor:
    values = reference.attach(policy(pack_trees(trees)), trees).ref_token_logps
    assert values is not None
    assert not values.requires_grad
    return values


def assert_equal(actual: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(actual, wanted, atol=1e-5, rtol=0)


KINDS = [{}, {"lora": True}, {"lora": True, "is_zero": False}]


@pytest.fixture(params=KINDS, ids=["full", "new adapter", "continued adapter"])
def policy(make, request) -> PolicyModule:
    if request.param:
        pytest.importorskip("peft")
    return make(**request.param).train()


def test_it_starts_as_the_policy(policy, trees):
    reference = build(policy, rate=0.6, period=4)
    responses = reference.attach(policy(pack_trees(trees)), trees)
    assert responses.log_ratios.abs().max() < 1e-5
    start = {name: tensor.clone() for name, tensor in trained(policy).items()}
    move(policy)
    assert_equal(attached(reference, policy, trees), logps_with(policy, start, trees))


def test_an_update_is_the_weighted_mean_of_weights(policy, trees):
    """Three updates are compared with the closed form θ_ref = Σ α(1−α)^(n−k) θ_k + (1−α)^n θ_0, in float64 by hand."""
    rate = 0.3
    expected = {name: tensor.double() for name, tensor in trained(policy).items()}
    reference = build(policy, rate=rate, period=1)
    for step in (1, 2, 3):
        weights = move(policy, step)
        assert reference.after_step(step, weights.items())
        expected = {name: rate * weights[name].double() + (1 - rate) * value for name, value in expected.items()}
    wanted = {name: tensor.float() for name, tensor in expected.items()}
    for name, tensor in reference.tensors().items():
        torch.testing.assert_close(tensor, wanted[name], atol=1e-6, rtol=1e-6)
    assert_equal(attached(reference, policy, trees), logps_with(policy, wanted, trees))
    assert all(torch.equal(tensor, weights[name]) for name, tensor in trained(policy).items()), "the policy stays"


def test_a_hard_update_is_the_policy_to_the_last_bit(policy, trees):
    reference = build(policy, rate=1, period=2)
    weights = move(policy)
    assert reference.after_step(2, weights.items())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in reference.tensors().items())
    responses = reference.attach(policy(pack_trees(trees)), trees)
    assert torch.equal(responses.ref_token_logps, responses.token_logps)
    move(policy, seed=1)
    assert_equal(attached(reference, policy, trees), logps_with(policy, weights, trees))


def test_between_updates_weights_are_not_even_read(make, trees):
    policy = make()
    reference = build(policy, rate=0.5, period=3)
    before = attached(reference, policy, trees)
    move(policy)

    def forbidden() -> Iterator[tuple[str, Tensor]]:
        raise AssertionError("gathering weights costs")
        yield

    assert [step for step in (1, 2, 4, 5, 7) if reference.after_step(step, forbidden())] == []
    assert torch.equal(attached(reference, policy, trees), before)
    assert reference.after_step(6, trained(policy).items())


def test_only_what_trains_is_copied(make):
    pytest.importorskip("peft")
    adapted = build(make(lora=True), rate=1, period=1)
    assert all("lora_" in name for name in adapted.tensors())
    everything = make()
    assert set(build(everything, rate=1, period=1).tensors()) == {name for name, _ in everything.named_parameters()}


def test_gradients_are_those_without_a_reference(make, trees):
    def gradients(with_reference: bool) -> list[Tensor]:
        policy = make().train()
        responses = policy(pack_trees(trees))
        if with_reference:
            reference = build(policy, rate=1, period=1)
            reference.after_step(1, [(n, torch.zeros_like(p)) for n, p in trained(policy).items()])
            responses = reference.attach(responses, trees)
        responses.seq_logps.sum().backward()
        return [p.grad for p in policy.parameters()]

    for a, b in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_it_lends_its_distributions(policy, trees):
    """The divergence is 0 if and only if the policy equals the reference."""
    reference = build(policy, live=True, rate=1, period=1)
    move(policy)

    def divergence() -> float:
        with torch.no_grad():
            return float(policy(pack_trees(trees), READ, reference.states(trees)).extra("ref_kls").max())

    assert divergence() > 0.01
    reference.after_step(1, trained(policy).items())
    assert divergence() < 1e-6


def test_what_a_checkpoint_keeps_brings_it_back(policy, trees):
    reference = build(policy, rate=0.5, period=1)
    other = build(policy, rate=0.5, period=1)
    reference.after_step(1, move(policy).items())
    kept = {name: tensor.clone() for name, tensor in reference.tensors().items()}
    reference.after_step(2, move(policy).items())
    for name, tensor in other.tensors().items():
        tensor.copy_(kept[name])
    assert all(torch.equal(tensor, kept[name]) for name, tensor in other.tensors().items())
    assert_equal(attached(other, policy, trees), logps_with(policy, kept, trees))


def test_nothing_is_stored_and_everything_is_said(make, trees, tmp_path, monkeypatch):
    monkeypatch.setenv("TILTLM_STORE", str(tmp_path / "store"))
    policy = make()
    reference = build(policy, rate=0.6, period=512)
    assert reference.ensure(trees) == Computed(0, 0)
    attached(reference, policy, trees)
    assert reference.audit() == 0
    assert not (tmp_path / "store").exists()
    assert (reference.name, reference.is_live) == ("moving", True)
    assert reference.digest == f"{base_digest(policy)} moving(0.6, 512)"
    line = str(reference)
    assert "moved 0.6 of the way to the policy after every 512 steps" in line
    assert line.endswith("computed at every step")


@pytest.mark.parametrize(
    ("settings", "code", "key", "value"),
    [
        ({"period": 4}, "missing_setting", "rate", "'moving'"),
        ({"rate": 0.5}, "missing_setting", "period", "'moving'"),
        ({"rate": 0.0, "period": 4}, "out_of_range", "rate", "0.0"),
        ({"rate": 1.01, "period": 4}, "out_of_range", "rate", "1.01"),
        ({"rate": float("nan"), "period": 4}, "out_of_range", "rate", "nan"),
        ({"rate": 0.5, "period": 0}, "not_positive", "period", "0"),
        ({"rate": 0.5, "period": 4, "store": "x"}, "no_effect", "store", "'moving'"),
        ({"rate": 0.5, "period": 4, "cache": False}, "no_effect", "cache", "=moving"),
        ({"rate": 0.5, "period": 4, "revision": "v2"}, "no_effect", "revision", "=moving"),
    ],
)
def test_what_cannot_be_is_refused(settings, code, key, value):
    with raises(ConfigError, code, key=f"reference.{key}", mentions=[f"reference.{key}", value]):
        ReferenceSettings("moving", **settings)


@pytest.mark.parametrize("name", ["auto", "initial", "base", "none", "columns", str(Path("folder"))])
@pytest.mark.parametrize("key", ["rate", "period"])
def test_rate_and_period_are_the_moving_references(name, key):
    with raises(ConfigError, "no_effect", key=f"reference.{key}", mentions=[f"reference.name={name}"]):
        ReferenceSettings(name, **{key: 1})


def test_an_objective_without_a_reference_refuses_one_that_moves(make):
    with raises(ConfigError, "no_effect", key="reference.name", mentions=["'moving'"]):
        build(make(), is_needed=False, rate=0.5, period=1)
