"""The tensors of a checkpoint: those that training changes, under names that do not depend on the number of processes.

Sharded weights and their optimiser state stay shards here; `shards.py` writes and reads them.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from tiltlm.core.errors import RunError
from tiltlm.distributed.wrapping import reshard
from tiltlm.reference import Reference
from tiltlm.training.checkpoints.shards import read_into, shapes_of
from tiltlm.training.optim.optimizer import trainable
from tiltlm.training.optim.quantised import allocate

CONSTANTS = {"qmap1", "qmap2"}
"""State of an 8-bit optimiser that no checkpoint needs: the values of its 256 codes, the same for every parameter."""


def policy_tensors(policy: nn.Module) -> dict[str, Tensor]:
    """Return the trainable weights by name, on their device and sharded if the policy is. Nothing is copied."""
    reshard(policy)
    return {name: p.detach() for name, p in trainable(policy).items()}


def optimizer_tensors(policy: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Return the optimiser state as `parameter.moment` → tensor; empty before the first step. Nothing is copied."""
    reshard(policy)  # the state belongs to the shards
    return {
        f"{name}.{moment}": torch.as_tensor(state[moment]) for name, _, state, moment in _entries(policy, optimizer)
    }


def _entries(policy: nn.Module, optimizer: Optimizer) -> list[tuple[str, nn.Parameter, dict[str, Any], str]]:
    """Return (name of a parameter, parameter, its state, key in the state) for all that a checkpoint holds."""
    found = [(name, p, optimizer.state[p]) for name, p in trainable(policy).items() if p in optimizer.state]
    return [(*entry, moment) for entry in found for moment in entry[2] if moment not in CONSTANTS]


@torch.no_grad()
def restore_policy(policy: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Set the trainable weights to those of a checkpoint, or to a copy of `policy_tensors`.

    Raises:
        RunError: the tensors belong to another model.
    """
    reshard(policy)  # gathered weights are copies: what is written to them is lost
    check_shapes(policy, tensors)
    read_into(tensors, {name: p.detach() for name, p in trainable(policy).items()})


def check_shapes(policy: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Require that tensors have the names and shapes of the trainable weights; no tensor is read from a disk.

    Raises:
        RunError: they belong to another model.
    """
    parameters, shapes = trainable(policy), shapes_of(tensors)
    if different := sorted(set(parameters) ^ set(shapes)):
        raise RunError(
            "the weights in the checkpoint belong to another model: "
            f"{len(different)} names differ, for example {different[0]}",
            code="other_model",
        )
    for name, p in parameters.items():
        if list(p.shape) != shapes[name]:
            raise RunError(
                f"the checkpoint belongs to another model: {name} has the shape {shapes[name]} there and "
                f"{list(p.shape)} in this model",
                code="other_model",
            )


@torch.no_grad()
def restore_optimizer(policy: nn.Module, optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Set the optimiser state to that of a checkpoint, or to a copy of `optimizer_tensors`.

    Raises:
        RunError: the tensors belong to other parameters or to another optimiser.
    """
    if not tensors:
        return
    if isinstance(optimizer, AdamW):
        for p in trainable(policy).values():
            moments = {moment: torch.zeros_like(p) for moment in ("exp_avg", "exp_avg_sq")}
            optimizer.state[p] = {"step": torch.zeros((), device=p.device), **moments}
    else:
        allocate(optimizer)
    states = {f"{name}.{moment}": (state, moment) for name, _, state, moment in _entries(policy, optimizer)}
    if different := sorted(set(states) ^ set(tensors)):
        raise RunError(
            "the optimiser state in the checkpoint belongs to another model: "
            f"{len(different)} names differ, for example {different[0]}",
            code="other_optimizer_state",
        )
    read_into(tensors, {name: s[moment] for name, (s, moment) in states.items() if isinstance(s[moment], Tensor)})
    for name, (state, moment) in states.items():
        if not isinstance(state[moment], Tensor):  # a count of steps
            state[moment] = int(tensors[name])


@torch.no_grad()
def restore_reference(reference: Reference, tensors: Mapping[str, Tensor]) -> None:
    """Set the weights of a reference that moves to those of a checkpoint; any other has none.

    Raises:
        RunError: the tensors belong to another model.
    """
    own = reference.tensors()
    if different := sorted(set(own) ^ set(tensors)):
        raise RunError(
            f"the moving reference in the checkpoint is of another model: {len(different)} names of weights differ,"
            f" such as {different[0]}",
            code="other_model",
        )
    read_into(tensors, own)
