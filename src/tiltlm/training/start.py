"""Before the first step: how exact this machine is, and whether policy and reference really are the same model.

A wrong chat template, a store of other weights, an adapter that was not switched off: each shows at step 0 as a margin
that is not zero, and nowhere else as plainly.
"""

from collections.abc import Sequence
from math import sqrt

import torch
from torch import nn

from tiltlm.core import Example, RunError, Tree
from tiltlm.logprobs import PolicyModule
from tiltlm.reference.digests import model_digest
from tiltlm.training.packs import Pack
from tiltlm.training.step import ReferenceLogps, Stepper

MEASURED = 4
"""Examples on which the noise floor is measured and the reference compared."""


def starts_at_reference(policy: nn.Module, reference: ReferenceLogps | None) -> bool:
    """Whether policy and reference are the same weights before training. Ask before the policy is wrapped."""
    if reference is None:
        return False
    if reference.name in ("initial", "moving"):
        return True
    return bool(reference.digest) and isinstance(policy, PolicyModule) and reference.digest == model_digest(policy)


@torch.no_grad()
def measured_noise(stepper: Stepper, examples: Sequence[Example]) -> float:
    """The noise floor, in nats per token: the largest difference between responses packed together and one by one.

    Both are the same numbers on paper. 0 where this machine computes them identically.
    """
    trees = Pack.of(examples[:MEASURED]).trees
    singles = [Tree(tree.prompt_ids, (response,)) for tree in trees for response in tree.responses]
    packed = stepper.policy_logps(trees).token_logps
    apart = torch.cat([stepper.policy_logps([single]).token_logps for single in singles])
    return float((packed - apart).abs().max())


@torch.no_grad()
def check_start(stepper: Stepper, examples: Sequence[Example]) -> None:
    """Every log-ratio must be 0 within noise: 10 √T noise floors and 1e-5 nats a token.

    Raises:
        RunError: one is not; the message names it.
    """
    pack = Pack.of(examples[:MEASURED])
    responses = stepper.forward(pack.trees)
    ratios = responses.log_ratios.tolist()
    for example, slots in zip(pack.examples, pack.slots, strict=True):
        for k, slot in enumerate(slots):
            num_tokens = int(responses.num_tokens[slot])
            allowed = 10 * stepper.noise * sqrt(num_tokens) + 1e-5 * num_tokens
            if not abs(ratios[slot]) <= allowed:
                name = stepper.reference.name if stepper.reference is not None else ""
                raise RunError(
                    f"before the first step policy and reference {name!r} are the same weights, yet response {k} of "
                    f"{example.id} has log π/π_ref = {ratios[slot]:.4g} nats where 0 ± {allowed:.2g} is due. Stored "
                    "values are of another model, template or adapter (name another store), or something random is in "
                    "the forward (dropout)",
                    code="differs_at_start",
                    row=example.id,
                )
