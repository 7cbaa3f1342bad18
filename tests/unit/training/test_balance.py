"""The load-balancing loss of a step: transformers' own formula on separate sequences, however the step is cut."""

import pytest
import torch
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from support.toy_experts import CHOSEN, EXPERTS, make_policy
from support.toy_training import SortedMargins, rows
from tiltlm.core import ResponseLogps
from tiltlm.objectives import dpo, sft
from tiltlm.reference import Reference
from tiltlm.runs.directory import RunDirectory
from tiltlm.training.balance import Balance, routed
from tiltlm.training.loop import train_loop
from tiltlm.training.recorder import Listener
from tiltlm.training.step import Stepper
from tiltlm.training.training_settings import TrainingSettings

WHOLE = 10**6


def by_transformers(policy, examples):
    """Of every layer its own loss over the tokens of all distinct sequences; their mean."""
    model = policy.bare_model
    sequences = {(tuple(e.prompt_ids), tuple(r.token_ids)) for e in examples for r in e.responses}
    with policy.stock_attention():
        logits = [
            model(input_ids=torch.tensor([[*prompt, *response][:-1]]), output_router_logits=True).router_logits
            for prompt, response in sorted(sequences)
        ]
    layers = [torch.cat([own[layer].flatten(0, -2) for own in logits]) for layer in range(len(logits[0]))]
    return sum(load_balancing_loss_func((layer,), EXPERTS, CHOSEN) for layer in layers) / len(layers)


def step(objective, examples, coef, max_tokens, num_layers=2):
    policy = make_policy(num_layers)
    reference = None
    if objective.needs_reference:
        reference = Frozen(policy)
    stepper = Stepper(policy, objective, reference, max_tokens, noise=1e-6, router_aux_loss_coef=coef)
    outcome = stepper.train(examples)
    return outcome, [torch.zeros_like(p) if p.grad is None else p.grad for p in policy.parameters()], policy


class Frozen(Reference):
    """A reference of zeros."""

    name, digest = "zeros", "0" * 8

    def __init__(self, policy):
        self.policy = policy

    def attach(self, responses, trees):
        return responses.with_reference(torch.zeros_like(responses.token_logps))


@pytest.mark.parametrize("max_tokens", [1, 30, WHOLE])
@pytest.mark.parametrize("objective", [dpo(), sft(), SortedMargins()], ids=["dpo", "sft", "coupled"])
def test_a_step_has_its_gradient_exactly(objective, max_tokens):
    """However it is cut, and beside the objective's own, which does not change. Tables of RoPE are float32."""
    examples, coef = rows(7), 0.3
    plain, without, _ = step(objective, examples, 0.0, WHOLE)
    found, with_it, policy = step(objective, examples, coef, max_tokens)
    policy.zero_grad()
    loss = by_transformers(policy, examples)
    expected = torch.autograd.grad(loss, list(policy.parameters()), allow_unused=True)
    scale = max(float(g.abs().max()) for g in expected if g is not None)
    for one, other, own in zip(with_it, without, expected, strict=True):
        difference = (one - other) / coef - (torch.zeros_like(one) if own is None else own)
        assert float(difference.abs().max()) < 1e-5 * scale
    assert found.aux_loss == pytest.approx(loss.item(), rel=1e-6)
    assert found.loss == pytest.approx(plain.loss, rel=1e-7)
    assert plain.aux_loss is None


def test_one_layer_is_transformers_loss_itself():
    examples = rows(5)
    outcome, _, policy = step(sft(), examples, 1.0, 20, num_layers=1)
    assert outcome.aux_loss == pytest.approx(by_transformers(policy, examples).item(), rel=1e-6)
    assert outcome.aux_loss > 1.02 * CHOSEN


def responses_of(loads, probabilities):
    empty = torch.zeros(1)
    return ResponseLogps(empty, empty.long(), empty.long() + 1, router_loads=loads, router_probabilities=probabilities)


def test_equal_loads_give_k_and_one_expert_for_all_gives_their_number():
    """Bounds: k where all are alike, E where a single expert (k = 1) takes every token."""
    alike = responses_of(torch.full((3, 4), 5.0), torch.full((3, 4), 2.5))
    assert Balance.of(routed(alike)).loss.item() == pytest.approx(2.0)
    single = responses_of(torch.tensor([[10.0, 0, 0, 0]]), torch.tensor([[10.0, 0, 0, 0]]))
    assert Balance.of(routed(single)).loss.item() == pytest.approx(4.0)


def test_packs_add_up_and_loads_have_no_gradient():
    draw = torch.Generator().manual_seed(0)
    packs = [
        responses_of(torch.rand(2, 4, generator=draw), torch.rand(2, 4, generator=draw).requires_grad_())
        for _ in range(3)
    ]
    balance = Balance.of(torch.stack([routed(pack) for pack in packs]).sum(0))
    shares = [balance.share(pack) for pack in packs]
    assert sum(share.item() for share in shares) == pytest.approx(balance.loss.item(), rel=1e-6)
    (slope,) = torch.autograd.grad(shares[0], packs[0].router_probabilities)
    torch.testing.assert_close(slope.double(), balance.slopes, atol=1e-7, rtol=0)


def prefer_first_expert(policy, examples):
    """Turn every router's first row toward what its layer sees, so that most tokens choose that expert."""
    gates = [module for name, module in policy.named_modules() if name.endswith("mlp.gate")]
    seen = {}
    handles = [gate.register_forward_pre_hook(lambda gate, args: seen.update({gate: args[0]})) for gate in gates]
    Stepper(policy, sft(), None, WHOLE).evaluate(examples)
    for gate, handle in zip(gates, handles, strict=True):
        handle.remove()
        mean = seen[gate].flatten(0, -2).mean(0)
        gate.weight.data[0] += 5 * mean / mean.norm()


def test_training_on_it_balances_the_experts(tmp_path):
    """The sign: loads that were uneven become even, and metrics.jsonl shows it."""
    settings = TrainingSettings(
        num_epochs=15, batch_size=8, max_tokens=60, learning_rate=0.005, warmup_ratio=0.0, schedule="constant",
        router_aux_loss_coef=10.0,
    )  # fmt: skip
    policy = make_policy()
    prefer_first_expert(policy, rows(16))
    with RunDirectory.open(tmp_path / "run") as run:
        result = train_loop(
            policy, rows(16), rows(4, seed=1), sft(), None, settings, run, "fingerprint",
            listener=Listener(note=lambda note: None),
        )  # fmt: skip
    losses = [record["aux_loss"] for record in result.history if "loss" in record]
    assert losses[0] > 1.4 * CHOSEN
    assert sum(losses[-4:]) / 4 < 1.1 * CHOSEN
    assert all("eval_aux_loss" not in record for record in result.history)
