"""A reference with weights: right values, few forwards, frozen whatever the policy does."""

import numpy as np
import pytest
import torch

from support.errors import raises
from tiltlm.core.errors import ConfigError, NumericsError, RunError
from tiltlm.core.example import Response, token_ids
from tiltlm.core.forest import Tree, pack_trees
from tiltlm.logprobs.plain import plain_logps
from tiltlm.logprobs.policy import PolicyModule
from tiltlm.reference import Computed, ReferenceStore, model, numeric_path
from tiltlm.reference.model import ModelReference
from tiltlm.reference.reference_packs import contexts_and_responses
from tiltlm.reference.weights import Weights, base_weights, initial_weights

BUDGET = 60


def expected(policy: PolicyModule, trees: list[Tree]) -> torch.Tensor:
    """Compute log-probabilities by one plain forward per sequence."""
    with torch.no_grad(), policy.stock_attention():
        return plain_logps(policy.model, trees)


def in_store(weights: Weights, folder=None, name: str = "initial") -> ModelReference:
    store = ReferenceStore(folder, weights.digest, numeric_path(weights.policy))
    return ModelReference(name, weights, store, BUDGET)


def in_loop(weights: Weights) -> ModelReference:
    return ModelReference("initial", weights, None, BUDGET)


def attached(reference: ModelReference, policy: PolicyModule, trees: list[Tree]) -> torch.Tensor:
    values = reference.attach(policy(pack_trees(trees)), trees).ref_token_logps
    assert values is not None
    assert not values.requires_grad
    return values


def assert_equal(actual: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(actual, wanted, atol=1e-5, rtol=0)


def move(policy: PolicyModule, only: str = "") -> None:
    """Take a large step on all trained weights without increasing their versions, as fused optimisers do."""
    moved = [p for n, p in policy.named_parameters() if p.requires_grad and only in n]
    assert moved
    generator = torch.Generator().manual_seed(9)
    for parameter in moved:
        parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.3)


@pytest.mark.parametrize("is_kept", [True, False])
def test_values_are_those_of_plain_forwards(make, trees, is_kept):
    policy = make()
    weights = initial_weights(policy, keep_copy=not is_kept)
    reference = in_store(weights) if is_kept else in_loop(weights)
    reference.ensure(trees)
    assert_equal(attached(reference, policy, trees), expected(policy, trees))
    assert_equal(attached(reference, policy, trees[3:1:-1]), expected(policy, trees[3:1:-1]))


def test_an_unmoved_policy_has_margin_zero(make, trees):
    policy = make()
    responses = in_store(initial_weights(policy, False)).attach(policy(pack_trees(trees)), trees)
    torch.testing.assert_close(responses.log_ratios, torch.zeros_like(responses.log_ratios), atol=1e-5, rtol=0)


def test_what_was_computed_is_never_computed_again(make, trees, tmp_path):
    first = in_store(initial_weights(make(), False), tmp_path)
    num = len({(t.prompt_ids.tobytes(), r.token_ids.tobytes()) for t in trees for r in t.responses})
    assert first.ensure(trees) == Computed(0, num)
    assert first.forwards > 1
    again = in_store(initial_weights(make(), False), tmp_path)
    assert again.ensure(trees[::-1]) == Computed(num, 0)
    assert_equal(attached(again, make(), trees), attached(first, make(), trees))
    assert again.forwards == 0
    appended = Tree(token_ids([1, 2, 3]), (Response(token_ids([4, 5])), Response(token_ids([6]))))
    assert again.ensure([*trees, appended]) == Computed(num, 2)
    assert again.forwards == 1


def test_progress_starts_before_the_first_forward(make, trees):
    """The first pack can be the only one, and take minutes."""
    reference, seen = in_store(initial_weights(make(), False)), []
    reference.ensure(trees, lambda done, total: seen.append((done, total, reference.forwards)))
    num = len({(t.prompt_ids.tobytes(), r.token_ids.tobytes()) for t in trees for r in t.responses})
    assert seen[0] == (0, num, 0)
    assert seen[-1][:2] == (num, num)
    reference.ensure(trees, lambda *_: pytest.fail("nothing is missing"))


def test_other_weights_share_nothing(make, trees, tmp_path):
    in_store(initial_weights(make(), False), tmp_path).ensure(trees)
    assert in_store(initial_weights(make(seed=1), False), tmp_path).ensure(trees).num_hits == 0


def test_one_store_serves_lora_and_full_fine_tuning(make, trees, tmp_path):
    pytest.importorskip("peft")
    in_store(initial_weights(make(), False), tmp_path).ensure(trees)
    adapted = make(lora=True)
    for weights in (initial_weights(adapted, False), base_weights(adapted, False)):
        reference = in_store(weights, tmp_path)
        assert reference.ensure(trees).num_computed == 0
        assert reference.audit() == 8


def test_a_shorter_right_truncation_is_found(make, tmp_path):
    policy = make()
    whole = [Tree(token_ids([5, 6]), (Response(token_ids([7, 8, 9, 10])),))]
    cut = [Tree(token_ids([5, 6]), (Response(token_ids([7, 8]), ended=False),))]
    longer = [Tree(token_ids([5, 6]), (Response(token_ids([7, 8, 9, 10, 11])),))]
    reference = in_store(initial_weights(policy, False), tmp_path)
    reference.ensure(whole)
    assert reference.ensure(cut) == Computed(1, 0)
    assert_equal(attached(reference, policy, cut), expected(policy, cut))
    assert reference.ensure(longer) == Computed(0, 1)


def test_a_row_counts_once_whatever_is_scored(make):
    ids = token_ids([7, 8, 9])
    tree = Tree(token_ids([5]), (Response(ids), Response(ids, scored=token_ids([2]))))
    policy = make()
    reference = in_store(initial_weights(policy, False))
    assert reference.ensure([tree, tree]) == Computed(0, 1)
    assert_equal(attached(reference, policy, [tree]), expected(policy, [tree]))


def test_missing_rows_are_computed_when_they_are_attached(make, trees):
    policy = make()
    reference = in_store(initial_weights(policy, False))
    assert_equal(attached(reference, policy, trees), expected(policy, trees))
    forwards = reference.forwards
    attached(reference, policy, trees)
    assert reference.forwards == forwards


def test_without_a_store_every_step_is_one_forward(make, trees):
    policy = make()
    reference = in_loop(initial_weights(policy, True))
    assert reference.ensure(trees) == Computed(0, 0)
    for step in (1, 2):
        attached(reference, policy, trees)
        assert reference.forwards == step


def test_full_fine_tuning_reads_the_store_and_never_computes_from_moved_weights(make, trees):
    policy = make()
    reference = in_store(initial_weights(policy, keep_copy=False))
    wanted = expected(policy, trees[:4])
    reference.ensure(trees[:4])
    move(policy)
    assert_equal(attached(reference, policy, trees[:4]), wanted)
    with raises(RunError, "weights_moved", key="reference.cache", mentions=["reference.cache=false"]):
        attached(reference, policy, trees)
    with raises(RunError, "weights_moved"):
        reference.ensure(trees)


@pytest.mark.parametrize("is_fused", [True, False])
def test_a_step_of_the_optimiser_is_noticed(make, trees, is_fused):
    policy = make()
    reference = in_store(initial_weights(policy, keep_copy=False))
    optimiser = torch.optim.AdamW(policy.parameters(), lr=1e-6, fused=is_fused)
    policy(pack_trees(trees)).token_logps.sum().backward()
    reference.ensure(trees[:1])
    optimiser.step()
    with raises(RunError, "weights_moved"):
        reference.ensure(trees[1:])


def test_full_fine_tuning_without_a_store_keeps_a_copy(make, trees):
    policy = make()
    wanted = expected(policy, trees)
    weights = initial_weights(policy, keep_copy=True)
    move(policy)
    assert_equal(attached(in_loop(weights), policy, trees), wanted)
    assert not any(p.requires_grad for p in weights.policy.parameters())
    assert all(p.requires_grad for p in policy.parameters())


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_fresh_adapter_is_switched_off(make, trees, is_kept):
    pytest.importorskip("peft")
    policy = make(lora=True)
    wanted = expected(make(), trees)
    weights = initial_weights(policy, keep_copy=not is_kept)
    assert weights.policy is policy, "no second model"
    move(policy, only="lora_")
    assert (expected(policy, trees) - wanted).abs().max() > 0.01
    assert_equal(attached(in_store(weights) if is_kept else in_loop(weights), policy, trees), wanted)


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_continued_adapter_is_part_of_the_initial_policy(make, trees, is_kept):
    pytest.importorskip("peft")
    policy = make(lora=True, is_zero=False)
    wanted = expected(policy, trees)
    assert (wanted - expected(make(), trees)).abs().max() > 0.01
    weights = initial_weights(policy, keep_copy=not is_kept)
    assert weights.policy is policy, "no second model"
    move(policy, only="lora_")
    moved = expected(policy, trees)
    assert_equal(attached(in_store(weights) if is_kept else in_loop(weights), policy, trees), wanted)
    assert_equal(expected(policy, trees), moved)


def test_the_base_of_a_continued_adapter_is_without_it(make, trees):
    pytest.importorskip("peft")
    policy = make(lora=True, is_zero=False)
    assert_equal(attached(in_store(base_weights(policy, False), name="base"), policy, trees), expected(make(), trees))


def test_a_policy_trains_on_after_the_reference_ran(make, trees):
    """Swapping adapters between a forward and its backward changes no gradient."""
    pytest.importorskip("peft")

    def gradients(policy: PolicyModule, reference: ModelReference | None) -> list[torch.Tensor]:
        responses = policy(pack_trees(trees))
        if reference is not None:
            responses = reference.attach(responses, trees)
        responses.seq_logps.sum().backward()
        return [p.grad for p in policy.parameters() if p.requires_grad]

    for is_zero in (True, False):
        policy = make(lora=True, is_zero=is_zero)
        weights = initial_weights(policy, True)
        policy.train()
        with_reference = gradients(policy, in_loop(weights))
        assert policy.training
        plain = gradients(make(lora=True, is_zero=is_zero), None)
        assert len(plain) == len(with_reference) > 0
        for a, b in zip(plain, with_reference, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_base_without_an_adapter_is_refused(make):
    with raises(ConfigError, "no_adapter", key="reference.name", mentions=["'base'", "'initial'"]):
        base_weights(make(), False)


def test_an_audit_compares_a_handful_and_counts_no_forward(make, trees, tmp_path):
    in_store(initial_weights(make(), False), tmp_path).ensure(trees)
    reference = in_store(initial_weights(make(), False), tmp_path)
    assert reference.audit() == 0
    reference.ensure(trees)
    assert reference.audit(num=5) == 5
    assert reference.forwards == 0


def test_an_audit_finds_numbers_that_are_not_the_models(make, trees, tmp_path):
    weights = initial_weights(make(), False)
    wrong = ReferenceStore(tmp_path, weights.digest, numeric_path(weights.policy))
    right = in_store(weights)
    right.ensure(trees)
    asked = [(t.prompt_ids, r.token_ids) for t in trees for r in t.responses]
    wrong.put([(c, r, v + 2e-3) for (c, r), v in zip(asked, right._store.get(asked), strict=True)])
    reference = in_store(weights, tmp_path)
    reference.ensure(trees)
    with raises(
        NumericsError,
        "stored_values_differ",
        mentions=["0.002", str(tmp_path), "initial", "reference.cache=false"],
    ):
        reference.audit()


def test_an_audit_bears_rounding_to_16_bits(make, trees, tmp_path):
    for _ in range(2):
        policy = PolicyModule(make().model, precision="bf16")
        reference = in_store(initial_weights(policy, False), tmp_path)
        computed = reference.ensure(trees)
    assert computed.num_computed == 0
    assert reference.audit() == 8


def test_an_interrupted_pass_keeps_what_it_computed(make, trees, tmp_path):
    def interrupt(done: int, _of: int) -> None:
        if done > 5:
            raise KeyboardInterrupt

    first = in_store(initial_weights(make(), False), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        first.ensure(trees, interrupt)
    seen = []
    computed = in_store(initial_weights(make(), False), tmp_path).ensure(trees, lambda *at: seen.append(at))
    assert computed.num_hits > 5
    assert computed.num_computed > 0
    assert seen[-1] == (computed.num_computed, computed.num_computed)


def test_a_pass_writes_as_it_goes(make, trees, tmp_path, monkeypatch):
    monkeypatch.setattr(model, "TOKENS_BETWEEN_WRITES", 10)
    weights = initial_weights(make(), False)
    reference = ModelReference("initial", weights, ReferenceStore(tmp_path, weights.digest, ""), 15)
    num_files = []
    reference.ensure(trees, lambda *_: num_files.append(len(list(tmp_path.rglob("*.arrow")))))
    assert num_files[0] == 0
    assert num_files[-1] >= 2
    again = ModelReference("initial", weights, ReferenceStore(tmp_path, weights.digest, ""), 15)
    assert again.ensure(trees).num_computed == 0


def test_of_many_found_a_few_are_kept_for_the_audit_with_equal_chances(make, trees, monkeypatch):
    """2000 passes over 12 sequences, 3 kept: each 500 times, give or take (standard deviation 19)."""
    monkeypatch.setattr(model, "FOR_AUDIT", 3)
    weights = initial_weights(make(), False)
    asked = contexts_and_responses(trees)[:12]
    counts = [0] * len(asked)
    for _ in range(2000):
        reference = in_store(weights)
        for answer in asked:
            reference._remember(answer)
        assert len(reference._found) == 3
        for found in reference._found:
            counts[next(i for i, answer in enumerate(asked) if answer is found)] += 1
    assert all(abs(count - 500) < 120 for count in counts)


def test_tidies_its_store(make, trees, tmp_path):
    weights = initial_weights(make(), False)
    in_store(weights, tmp_path).ensure(trees)
    ReferenceStore(tmp_path, "others", "float32").put([(token_ids([1]), token_ids([2]), np.float32([-1]))])
    reference = ModelReference("initial", weights, ReferenceStore(tmp_path, weights.digest, "other", 1), BUDGET)
    reference.ensure(trees[:1])
    reference.tidy()
    assert len(list(tmp_path.rglob("*.arrow"))) == 1, "its own"
    in_loop(weights).tidy()


def test_numbers_that_are_none_are_refused_and_not_kept(make, trees, tmp_path):
    policy = make()
    weights = initial_weights(policy, True)
    with torch.no_grad():
        weights.policy.get_input_embeddings().weight.fill_(torch.nan)
    reference = in_store(weights, tmp_path)
    with raises(NumericsError, "not_finite", mentions=["initial"]):
        reference.ensure(trees)
    assert not list(tmp_path.rglob("*.arrow"))


def test_announces_itself(make, tmp_path):
    weights = initial_weights(make(), False)
    text = str(in_store(weights, tmp_path))
    assert text.startswith(f"initial (the policy before training), digest {weights.digest}, float32 weights")
    assert str(tmp_path) in text
    assert str(in_loop(weights)).endswith("computed at every step")
