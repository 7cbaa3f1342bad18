"""The weights of a reference, and how they are put in place for a forward.

`initial` and `base` need no second model: the adapter is switched off, or swapped for a frozen copy of itself. If the
model's own weights are trained and were not copied, a forward after their first change raises an error: its
log-probabilities would be those of another policy. The frozen copy of a sharded model is a copy of its shards, which
are swapped in.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tiltlm.core.errors import RunError
from tiltlm.distributed.wrapping import is_sharded, local_part, reshard
from tiltlm.logprobs import PolicyModule
from tiltlm.reference.digests import adapter_is_zero, adapter_tensors, base_digest, base_tensors, model_digest
from tiltlm.reference.reference_settings import no_adapter


@dataclass(frozen=True, eq=False)
class Weights:
    """Frozen weights and the module that runs them."""

    digest: str
    how: str
    """How they are obtained, for the log."""
    policy: PolicyModule
    in_place: Callable[[], AbstractContextManager[None]]
    """A context manager inside which `policy` has these weights."""
    starts_as_policy: bool = False
    """True if these are the weights of the policy to train, as loaded, adapter included."""


def initial_weights(policy: PolicyModule, keep_copy: bool) -> Weights:
    """Return the weights of the policy as loaded, adapter included. A zero adapter is switched off.

    Args:
        policy: The policy as loaded, before anything has trained.
        keep_copy: Copy the model if its own weights are going to train. Without a copy they are used until they change.
    """
    if not adapter_tensors(policy):
        weights = _serve(policy, base_digest(policy), "the policy before training", _as_it_is, keep_copy)
        return replace(weights, starts_as_policy=True)
    if adapter_is_zero(policy):
        return replace(base_weights(policy, keep_copy), starts_as_policy=True)
    digest, how = model_digest(policy), "the adapter as loaded"
    frozen = {name: tensor.detach().clone() for name, tensor in adapter_tensors(policy).items()}

    def as_loaded(module: PolicyModule) -> AbstractContextManager[None]:
        return swapped(module, adapter_tensors(module), frozen)

    return replace(_serve(policy, digest, how, as_loaded, keep_copy), starts_as_policy=True)


def base_weights(policy: PolicyModule, keep_copy: bool) -> Weights:
    """Return the weights of the policy without its adapters.

    Args:
        policy: The policy as loaded, before anything has trained.
        keep_copy: As for `initial_weights`.

    Raises:
        ConfigError: there is no adapter.
    """
    if not adapter_tensors(policy):
        raise no_adapter()
    return _serve(policy, base_digest(policy), "adapters off", PolicyModule.adapters_disabled, keep_copy)


def other_weights(policy: PolicyModule) -> Weights:
    """Freeze another model and return its weights."""
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
    """Return the policy's own weights, with `switch` applied: from a copy, or from itself until they change."""
    trains = any(tensor.requires_grad for tensor in base_tensors(policy).values())
    if trains and keep_copy and is_sharded(policy):
        kept = {name: tensor.detach().clone() for name, tensor in base_tensors(policy).items() if tensor.requires_grad}

        @contextmanager
        def swapped_in() -> Iterator[None]:
            with swapped(policy, base_tensors(policy), kept), switch(policy):
                yield

        return Weights(digest, f"{how}, a frozen copy of its shards", policy, swapped_in)
    if trains and keep_copy:
        frozen = copy.deepcopy(policy).requires_grad_(False)
        return Weights(digest, f"{how}, a frozen copy", frozen, lambda: switch(frozen))
    loaded = base_digest(policy) if trains else ""

    @contextmanager
    def in_place() -> Iterator[None]:
        # Compared by content: fused optimisers write without increasing a tensor's version.
        if trains and base_digest(policy) != loaded:
            raise RunError(
                "the reference is the policy before training. A log-probability is missing from the store and can no"
                " longer be computed, because training has changed the weights. Compute it before the first step"
                " (ensure), load the model again, or set reference.cache=false, which makes a frozen copy.",
                code="weights_moved",
                key="reference.cache",
            )
        with switch(policy):
            yield

    return Weights(digest, how, policy, in_place)


@contextmanager
def swapped(policy: PolicyModule, live: Mapping[str, Tensor], frozen: dict[str, Tensor]) -> Iterator[None]:
    """Give tensors of the policy the values `frozen` for the block.

    Shards exchange their values, since FSDP gathers them from memory that it knows. No other value is copied.

    Args:
        policy: The module.
        live: Its tensors by name; of a sharded module its shards.
        frozen: The values of all or some of them.
    """
    if is_sharded(policy):
        exchange(policy, live, frozen)
        try:
            yield
        finally:
            exchange(policy, live, frozen)
        return
    own = {name: tensor.data for name, tensor in live.items()}
    try:
        for name, tensor in live.items():
            frozen[name] = frozen[name].to(tensor.device)
            tensor.data = frozen[name]
        yield
    finally:
        for name, tensor in live.items():
            tensor.data = own[name]


@torch.no_grad()
def exchange(policy: PolicyModule, live: Mapping[str, Tensor], frozen: Mapping[str, Tensor]) -> None:
    """Exchange the values of two sets of shards, one tensor at a time; gathered weights of the policy are dropped."""
    reshard(policy)
    for name, kept in frozen.items():
        own, other = local_part(live[name].detach()), local_part(kept)
        before = own.clone()
        own.copy_(other)
        other.copy_(before)
