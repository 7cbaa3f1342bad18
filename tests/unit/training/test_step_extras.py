"""Numbers per token beside log-probabilities, through a whole step: its cut changes neither loss nor gradient."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
import transformers
from torch.nn.functional import softplus

from support.toy_training import VOCABULARY, rows
from tiltlm.core import Pairs, segment_sum
from tiltlm.logprobs import PolicyModule
from tiltlm.objectives.terms import Divisor, Term
from tiltlm.reference.model import ModelReference
from tiltlm.reference.weights import initial_weights
from tiltlm.rewards import LogRatio
from tiltlm.training.step import Stepper

ALL = frozenset({"log_collisions", "entropies", "ref_kls", "ref_entropy_shares"})
WHOLE = 10**6


@dataclass(frozen=True)
class Reading:
    """Reads everything there is: divergences with gradient, the rest as weights; sorts margins where it is coupled."""

    coupled: bool
    extras: frozenset = ALL
    reward: LogRatio = LogRatio(0.5)  # noqa: RUF009
    view: ClassVar[type[Pairs]] = Pairs
    shape: ClassVar[str] = "pairs"
    statistic: ClassVar[None] = None
    needs_reference: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset()
    uses: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, responses, pairs, /):
        def of_tokens(name):
            return segment_sum(responses.extra(name), responses.response_index, len(responses.num_tokens))

        values = self.reward(responses)
        for name in sorted(self.extras):
            values = values + {"ref_kls": 3.0, "log_collisions": 0.1}.get(name, 0.01) * of_tokens(name)
        chosen, rejected = values[pairs.chosen], values[pairs.rejected]
        if self.coupled:
            chosen, rejected = chosen.sort().values, rejected.sort().values
        return (Term(softplus(rejected - chosen), pairs.example, Divisor.EXAMPLES),)


def model(seed):
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return PolicyModule(transformers.LlamaForCausalLM(config).double())


def step(objective, max_tokens):
    """Loss, gradient, and how many forwards the reference made."""
    policy = model(1)
    reference = ModelReference("initial", initial_weights(model(2), True), None, WHOLE)
    outcome = Stepper(policy, objective, reference, max_tokens).train(rows(7))
    return outcome.loss, torch.cat([p.grad.flatten() for p in policy.parameters()]), reference.forwards


@pytest.mark.parametrize("extras", [ALL, frozenset({"ref_kls"}), frozenset({"log_collisions"})])
@pytest.mark.parametrize("coupled", [False, True])
def test_cutting_a_step_into_packs_changes_nothing(coupled, extras):
    whole, expected, _ = step(Reading(coupled, extras), WHOLE)
    cut, found, _ = step(Reading(coupled, extras), 15)
    assert cut == pytest.approx(whole, rel=1e-7)
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()
    without = step(Reading(coupled, extras - {"ref_kls"}), WHOLE)[1]
    assert ("ref_kls" in extras) == bool((without - expected).abs().max() > 1e-3 * expected.abs().max())


@pytest.mark.parametrize(
    ("coupled", "extras", "forwards_per_pack"),
    [
        (False, ALL, 1),  # the reference's log-probabilities come with its states
        (True, ALL, 2),
        (True, frozenset({"ref_entropy_shares"}), 1),  # nothing with gradient: the second pass needs no reference
        (False, frozenset({"entropies"}), 1),
    ],
)
def test_the_reference_runs_no_more_often_than_needed(coupled, extras, forwards_per_pack):
    _, _, one = step(Reading(False), WHOLE)
    assert one == 1
    policy, objective = model(1), Reading(coupled, extras)
    reference = ModelReference("initial", initial_weights(model(2), True), None, WHOLE)
    num_forwards = []
    policy.register_forward_hook(lambda *_: num_forwards.append(1))
    Stepper(policy, objective, reference, 15).train(rows(7))
    num_packs = len(num_forwards) // (2 if coupled else 1)
    assert num_packs > 1
    assert reference.forwards == forwards_per_pack * num_packs


@pytest.mark.parametrize("coupled", [False, True])
def test_evaluation_is_the_same_step_without_gradient(coupled):
    policy = model(1)
    reference = ModelReference("initial", initial_weights(model(2), True), None, WHOLE)
    found = Stepper(policy, Reading(coupled), reference, 15).evaluate(rows(7))
    assert found.loss == pytest.approx(step(Reading(coupled), WHOLE)[0], rel=1e-7)
    assert all(p.grad is None for p in policy.parameters())
