"""Whose weights a reference has, and how they are put in place for a forward.

`initial` and `base` need no second model: adapters are switched off, or swapped for a frozen copy of themselves. What
trains cannot serve for long: from the moment a weight has moved, these sources refuse to compute instead of answering
with the wrong policy.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

from torch import Tensor

from tiltlm.core.errors import ConfigError, RunError
from tiltlm.logprobs import PolicyModule
from tiltlm.reference.digests import adapter_is_zero, adapter_tensors, base_digest, base_tensors, model_digest


@dataclass(frozen=True, eq=False)
class Weights:
    """Frozen weights and the module that runs them."""

    digest: str
    how: str
    """How they come about, for the announcement."""
    policy: PolicyModule
    in_place: Callable[[], AbstractContextManager[None]]
    """While it is entered, `policy` has these weights."""


def initial_weights(policy: PolicyModule, keep_copy: bool) -> Weights:
    """The policy exactly as loaded, adapter included. A zero adapter is simply switched off.

    Args:
        policy: As loaded, before anything has trained.
        keep_copy: Copy the model if its own weights are going to train; else they serve until they move.
    """
    if not adapter_tensors(policy):
        return _serve(policy, base_digest(policy), "the policy before training", _as_it_is, keep_copy)
    if adapter_is_zero(policy):
        return base_weights(policy, keep_copy)
    digest, how = model_digest(policy), "the adapter as loaded"
    frozen = {name: tensor.detach().clone() for name, tensor in adapter_tensors(policy).items()}

    def as_loaded(module: PolicyModule) -> AbstractContextManager[None]:
        return swapped(adapter_tensors(module), frozen)

    return _serve(policy, digest, how, as_loaded, keep_copy)


def base_weights(policy: PolicyModule, keep_copy: bool) -> Weights:
    """The policy without its adapters.

    Args:
        policy: As loaded, before anything has trained.
        keep_copy: Copy the model if its own weights are going to train; else they serve until they move.

    Raises:
        ConfigError: there is no adapter.
    """
    if not adapter_tensors(policy):
        raise ConfigError(
            "reference.name is 'base', the model without its adapters, and this model has none; name 'initial'",
            code="no_adapter",
            key="reference.name",
        )
    return _serve(policy, base_digest(policy), "adapters off", PolicyModule.adapters_disabled, keep_copy)


def other_weights(policy: PolicyModule) -> Weights:
    """Another model, which nobody trains."""
    policy.requires_grad_(False)
    return Weights(model_digest(policy), "a model of its own", policy, nullcontext)


def _as_it_is(_policy: PolicyModule) -> AbstractContextManager[None]:
    return nullcontext()


def _serve(
    policy: PolicyModule,
    digest: str,
    how: str,
    switch: Callable[[PolicyModule], AbstractContextManager[None]],
    keep_copy: bool,
) -> Weights:
    """The policy's own weights, after `switch`: from a copy, or from itself as long as they have not moved."""
    trains = any(tensor.requires_grad for tensor in base_tensors(policy).values())
    if trains and keep_copy:
        frozen = copy.deepcopy(policy).requires_grad_(False)
        return Weights(digest, f"{how}, a frozen copy", frozen, lambda: switch(frozen))
    loaded = base_digest(policy) if trains else ""

    @contextmanager
    def in_place() -> Iterator[None]:
        # By content: fused optimisers write without counting up a tensor's version.
        if trains and base_digest(policy) != loaded:
            raise RunError(
                "the reference is the policy before training, its weights have moved since, and it is asked for"
                " log-probabilities that it does not have. Compute them before the first step (ensure), load the"
                " model again, or set reference.cache=false, which keeps a frozen copy.",
                code="weights_moved",
                key="reference.cache",
            )
        with switch(policy):
            yield

    return Weights(digest, how, policy, in_place)


@contextmanager
def swapped(live: Mapping[str, Tensor], frozen: dict[str, Tensor]) -> Iterator[None]:
    """Inside, the tensors `live` have the values `frozen`; no value is copied."""
    own = {name: tensor.data for name, tensor in live.items()}
    try:
        for name, tensor in live.items():
            frozen[name] = frozen[name].to(tensor.device)
            tensor.data = frozen[name]
        yield
    finally:
        for name, tensor in live.items():
            tensor.data = own[name]
