"""Whole distributions of a reference: always those of the weights it names, whatever the policy has become."""

import copy
from types import SimpleNamespace

import pytest
import torch

from support.errors import raises
from tiltlm.core.errors import ConfigError, RunError
from tiltlm.core.forest import Tree, pack_trees
from tiltlm.logprobs.policy import PolicyModule
from tiltlm.models.model_settings import ModelSettings
from tiltlm.reference import ReferenceSettings, build_reference
from tiltlm.reference.model import ModelReference
from tiltlm.reference.moving import MovingReference
from tiltlm.reference.reference import ColumnReference, Reference
from tiltlm.reference.weights import initial_weights, other_weights

READ = frozenset({"ref_kls", "ref_entropy_shares"})


def build(policy: PolicyModule, **settings: object) -> Reference:
    """Build the reference of an objective that reads distributions."""
    loaded = SimpleNamespace(module=policy, tokenizer=None, settings=ModelSettings("unused"), sharding=None)
    return build_reference(
        ReferenceSettings(**settings),  # type: ignore[arg-type]
        loaded,  # type: ignore[arg-type]
        is_needed=True,
        max_tokens=100,
        live=True,
    )


def step(policy: PolicyModule, trees: list[Tree]) -> None:
    """Take one large optimiser step."""
    optimiser = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=0.05)
    policy(pack_trees(trees)).token_logps.sum().backward()
    optimiser.step()


def assert_is(reference: Reference, wanted: PolicyModule, policy: PolicyModule, trees: list[Tree]) -> None:
    """Assert that `policy` sees the log-probabilities and distributions of `wanted` as those of the reference.

    Distributions are the same where no token's divergence from one to the other is above 0.
    """
    forest = pack_trees(trees)
    beside = reference.states(trees)
    with torch.no_grad():
        found = policy(forest, READ, beside)
        itself = wanted(forest, READ, beside)
    torch.testing.assert_close(found.ref_token_logps, itself.token_logps, atol=1e-5, rtol=0)
    torch.testing.assert_close(itself.extra("ref_kls"), torch.zeros_like(itself.token_logps), atol=1e-6, rtol=0)
    assert torch.equal(found.extra("ref_entropy_shares"), itself.extra("ref_entropy_shares"))


def moved_by(reference: Reference, policy: PolicyModule, trees: list[Tree]) -> float:
    """Return the largest divergence of a token's distribution from the reference's."""
    with torch.no_grad():
        return float(policy(pack_trees(trees), READ, reference.states(trees)).extra("ref_kls").max())


def test_initial_is_the_untrained_model_after_full_fine_tuning(make, trees):
    policy = make()
    reference = build(policy)
    assert moved_by(reference, policy, trees) == 0
    step(policy, trees)
    assert moved_by(reference, policy, trees) > 0.01
    assert_is(reference, make(), policy, trees)


@pytest.mark.parametrize(("name", "is_zero"), [("initial", True), ("initial", False), ("base", False)])
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "lm_head"]])
def test_adapters_need_no_second_model(make, trees, name, is_zero, targets):
    """A new adapter is switched off; a continued one is used as loaded. The same holds on the head."""
    pytest.importorskip("peft")
    policy = make(lora=True, is_zero=is_zero, targets=targets)
    reference = build(policy, name=name)
    assert reference.weights.policy is policy
    step(policy, trees)
    assert moved_by(reference, policy, trees) > 0.01
    wanted = make() if name == "base" or is_zero else make(lora=True, is_zero=False, targets=targets)
    assert_is(reference, wanted, policy, trees)
    assert_is(reference, wanted, policy, trees[:2])


def test_another_model(make, trees):
    policy, other = make(), make(seed=5)
    reference = ModelReference("folder", other_weights(other), None, 100)
    step(policy, trees)
    assert_is(reference, make(seed=5), policy, trees)


def test_a_moving_reference_lends_what_it_is_at_the_moment(make, trees):
    """Its head is put in place only while its states are computed."""
    policy = make()
    reference = MovingReference(policy, rate=1.0, period=1, max_tokens=100)
    step(policy, trees)
    assert_is(reference, make(), policy, trees)
    stage = copy.deepcopy(policy)
    reference.after_step(1, policy.named_parameters())
    assert_is(reference, stage, policy, trees)
    step(policy, trees)
    assert moved_by(reference, policy, trees) > 0.01
    assert_is(reference, stage, policy, trees)


def test_moved_weights_without_a_copy_are_refused(make, trees):
    policy = make()
    reference = ModelReference("initial", initial_weights(policy, keep_copy=False), None, 100)
    reference.states(trees)
    step(policy, trees)
    with raises(RunError, "weights_moved"):
        reference.states(trees)


def test_it_runs_at_every_step_and_stores_nothing(make, trees, tmp_path, monkeypatch):
    monkeypatch.setenv("TILTLM_STORE", str(tmp_path / "store"))
    reference = build(make())
    assert reference.is_live
    assert str(reference).endswith("computed at every step")
    assert reference.ensure(trees) == (0, 0)
    for count in (1, 2):
        reference.states(trees)
        assert reference.forwards == count
    assert not (tmp_path / "store").exists()


def test_a_store_that_would_stay_empty_is_refused(make, tmp_path):
    with raises(ConfigError, "no_effect", key="reference.store", mentions=["reference.store"]):
        build(make(), store=str(tmp_path))


def test_references_without_weights_have_no_distributions(make, trees):
    with raises(ConfigError, "needs_reference_weights", key="reference.name", mentions=["'columns'", "'initial'"]):
        build(make(), name="columns")
    for reference in (ColumnReference(), Reference()):
        with raises(ConfigError, "needs_reference_weights", key="reference.name", mentions=[repr(reference.name)]):
            reference.states(trees)
    assert not Reference.is_live


def test_a_policy_trains_on_beside_its_own_states(make, trees):
    """Adapters are on again in the forward; the mode and the gradients of the policy are unchanged."""
    pytest.importorskip("peft")
    policy = make(lora=True, is_zero=False).train()
    reference = build(policy, name="base")
    beside = reference.states(trees)
    assert policy.training
    policy(pack_trees(trees), READ, beside).extra("ref_kls").sum().backward()
    adapters = {n: p for n, p in policy.named_parameters() if p.requires_grad}
    assert all("lora_" in n for n in adapters)
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in adapters.values())
