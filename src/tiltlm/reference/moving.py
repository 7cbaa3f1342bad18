"""The moving reference of trust-region DPO: a prior that follows the policy, so that the tilt can go on.

With a fixed reference the optimum is π_ref · exp(r/β), once; every update of the reference takes a share of what was
learned into it, and the next stage tilts from there. Held to one reference, the policy would need a smaller β.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from tiltlm.core.errors import RunError
from tiltlm.logprobs import PolicyModule
from tiltlm.reference.digests import model_digest
from tiltlm.reference.model import ModelReference
from tiltlm.reference.weights import Weights, swapped


class MovingReference(ModelReference):
    """Starts as the policy does and takes a step toward it after every `period` optimiser steps:

        θ_ref ← rate · θ + (1 − rate) · θ_ref

    Only what trains is copied: all weights, or those of an adapter (its factors A and B are averaged, not their
    product). The copy stands in for the policy's own weights during a reference forward. Nothing is stored: from the
    first update on, what was computed would be of another reference.

    Source: Gorbatovski et al. 2024, arXiv 2404.09656 (soft update; rate 1 is the hard one), there α and τ.
    """

    def __init__(self, policy: PolicyModule, rate: float, period: int, max_tokens: int) -> None:
        """Copy what trains.

        Args:
            policy: As loaded, before anything has trained.
            rate: Share of the way to the policy, in (0, 1]; 1 replaces the reference.
            period: Optimiser steps from one update to the next; steps that were skipped count.
            max_tokens: As for `ModelReference`.
        """
        self._rate, self._period = rate, period
        self._frozen = {name: tensor.detach().clone() for name, tensor in _trained(policy).items()}
        weights = Weights(
            digest=f"{model_digest(policy)} moving({rate:g}, {period})",
            how=f"the policy before training, moved {rate:g} of the way to the policy after every {period} steps",
            policy=policy,
            in_place=lambda: swapped(_trained(policy), self._frozen),
        )
        super().__init__("moving", weights, None, max_tokens)

    @torch.no_grad()
    def after_step(self, step: int, weights: Iterable[tuple[str, Tensor]]) -> bool:
        if step % self._period:
            return False
        for name, tensor in weights:
            self._frozen[name].lerp_(tensor.to(self._frozen[name].device), self._rate)
        return True

    def tensors(self) -> dict[str, Tensor]:
        return {name: tensor.cpu() for name, tensor in self._frozen.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        if odd := sorted(set(self._frozen) ^ set(tensors)):
            raise RunError(
                f"the checkpoint's moving reference is of another model: {len(odd)} names differ, such as {odd[0]}",
                code="other_model",
            )
        for name, tensor in tensors.items():
            self._frozen[name].copy_(tensor)


def _trained(policy: PolicyModule) -> dict[str, Tensor]:
    """What training changes, by name; in every layout of processes the trained module calls it so."""
    return {name: parameter for name, parameter in policy.named_parameters() if parameter.requires_grad}
