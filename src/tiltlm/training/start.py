"""Checks before the first step: whether weights can move, rounding on this machine, the policy at its reference.

A wrong chat template, a store of another model's values, or an adapter that was not switched off gives margins that are
not zero before the first step. After it they look like an effect of training.
"""

import logging
from collections.abc import Sequence
from math import sqrt

import torch
from torch import nn

from tiltlm.core import Example, RunError, Tree
from tiltlm.logprobs import PolicyModule
from tiltlm.reference import Reference, model_digest
from tiltlm.training.optim.optimizer import share_unmoved, trainable
from tiltlm.training.packs import Pack
from tiltlm.training.step import Stepper

log = logging.getLogger(__name__)

MEASURED = 4
"""Examples on which the noise floor is measured and the reference compared."""
MOST_UNMOVED = 0.01
"""Share of weights that rounding may hold without a warning."""


def starts_at_reference(policy: nn.Module, reference: Reference | None) -> bool:
    """Return whether policy and reference have the same weights before training. Call it on the unwrapped policy."""
    if reference is None:
        return False
    if reference.starts_as_policy:
        return True
    return bool(reference.digest) and isinstance(policy, PolicyModule) and reference.digest == model_digest(policy)


@torch.no_grad()
def measured_noise(stepper: Stepper, examples: Sequence[Example]) -> float:
    """Return the noise floor in nats per token: the largest difference between packed and single responses.

    Both are equal in exact arithmetic. It is 0 if this machine computes both identically.
    """
    trees = Pack.of(examples[:MEASURED]).trees
    singles = [Tree(tree.prompt_ids, (response,)) for tree in trees for response in tree.responses]
    packed = stepper.policy_logps(trees).token_logps
    apart = torch.cat([stepper.policy_logps([single]).token_logps for single in singles])
    return float((packed - apart).abs().max())


@torch.no_grad()
def check_start(stepper: Stepper, examples: Sequence[Example]) -> None:
    """Require that the log-ratio of every response is 0 within noise: 10 √T noise floors and 1e-5 nats a token.

    Raises:
        RunError: it is not; the error names the response.
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
                    f"before the first step the policy and the reference {name!r} have the same weights, but response "
                    f"{k} of {example.id} has log π/π_ref = {ratios[slot]:.4g} nats; expected 0 ± {allowed:.2g}. "
                    "Either the stored values belong to another model, template or adapter (use another store), or the "
                    "forward is random",
                    code="differs_at_start",
                    row=example.id,
                )


def warn_of_rounding(policy: nn.Module, learning_rate: float) -> None:
    """Warn if steps of this size are lost to rounding in part of the weights."""
    share = share_unmoved(policy, learning_rate)
    if share < MOST_UNMOVED:
        return
    dtype = str(next(iter(trainable(policy).values())).dtype).removeprefix("torch.")
    way_out = (
        "Raise training.learning_rate"
        if dtype == "float32"
        else "Set model.dtype=float32 (model.precision=bf16 keeps the products fast), train an adapter (model.lora), "
        "or raise training.learning_rate"
    )
    log.warning(
        "%.1f %% of the trained weights will not move: they are %s, and a step of the peak learning rate %g is lost to "
        "rounding there. %s",
        100 * share,
        dtype,
        learning_rate,
        way_out,
        extra={"event": "updates_lost", "share": share},
    )
