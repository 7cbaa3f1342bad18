"""The optimiser and the learning rate: AdamW from torch or bitsandbytes, schedules from transformers.

Both are plain: the learning rate is a pure function of the step, and the optimiser's memory is named tensors, so that
a checkpoint needs a counter and safetensors, nothing pickled.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from transformers import get_scheduler

from tiltlm.core.errors import RunError
from tiltlm.distributed.wrapping import full_tensor, laid_out_as, reshard
from tiltlm.training.optim.quantised import allocate, build_quantised
from tiltlm.training.training_settings import TrainingSettings

FUSED = {"cpu", "cuda", "mps", "xpu"}
CONSTANTS = {"qmap1", "qmap2"}
"""In the state of an 8-bit optimiser: the values that its 256 codes stand for, the same for every parameter."""


def trainable(policy: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that training changes, by name, each once however often the model uses it."""
    return {name: p for name, p in policy.named_parameters() if p.requires_grad}


def build_optimizer(policy: nn.Module, settings: TrainingSettings, learning_rate: float) -> Optimizer:
    """AdamW over the trainable parameters, of the kind that `settings.optimizer` names.

    Weight decay touches matrices only, never norms and biases.

    Raises:
        ConfigError: an 8-bit optimiser is asked for, and bitsandbytes is missing or does not run on this device.
    """
    parameters = list(trainable(policy).values())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    knobs: dict[str, Any] = {
        "lr": learning_rate,
        "betas": (settings.adam_beta1, settings.adam_beta2),
        "eps": settings.adam_epsilon,
    }
    if settings.optimizer != "adamw":
        return build_quantised(policy, settings.optimizer, groups, **knobs)
    return AdamW(groups, **knobs, fused={p.device.type for p in parameters} <= FUSED)


def learning_rate_factor(settings: TrainingSettings, num_steps: int) -> Callable[[int], float]:
    """What the peak learning rate is multiplied by in step i = 0, 1, …: transformers' schedule of that name."""
    name = "constant_with_warmup" if settings.schedule == "constant" else settings.schedule
    placeholder = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=1.0)
    scheduler: Any = get_scheduler(
        name,
        placeholder,
        num_warmup_steps=int(num_steps * settings.warmup_ratio),
        num_training_steps=num_steps,
    )
    factor: Callable[[int], float] = scheduler.lr_lambdas[0]
    return factor


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """The rate of the next step, for every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float | None) -> float:
    """Scale the gradient down to `max_norm` where it is longer; its Euclidean norm before that, over all processes."""
    norm = torch.nn.utils.clip_grad_norm_(parameters, float("inf") if max_norm is None else max_norm)
    return float(full_tensor(norm).item())


def optimizer_tensors(policy: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimiser's memory as `parameter.moment` → whole tensor on the CPU; empty before the first step."""
    reshard(policy)  # it is kept by shard
    return {
        f"{name}.{moment}": full_tensor(torch.as_tensor(state[moment])).cpu()
        for name, _, state, moment in _kept(policy, optimizer)
    }


def _kept(policy: nn.Module, optimizer: Optimizer) -> list[tuple[str, nn.Parameter, dict[str, Any], str]]:
    """Name of a parameter, the parameter, its state, and a key of it; for all that a checkpoint keeps."""
    found = [(name, p, optimizer.state[p]) for name, p in trainable(policy).items() if p in optimizer.state]
    return [(*own, moment) for own in found for moment in own[2] if moment not in CONSTANTS]


@torch.no_grad()
def restore_optimizer(policy: nn.Module, optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Undo `optimizer_tensors`.

    Raises:
        RunError: the tensors are those of other parameters, or of another optimiser.
    """
    if not tensors:
        return
    if isinstance(optimizer, AdamW):
        for p in trainable(policy).values():
            moments = {moment: torch.zeros_like(p) for moment in ("exp_avg", "exp_avg_sq")}
            optimizer.state[p] = {"step": torch.zeros((), device=p.device), **moments}
    else:
        allocate(optimizer)
    kept = {f"{name}.{moment}": (p, state, moment) for name, p, state, moment in _kept(policy, optimizer)}
    if odd := sorted(set(kept) ^ set(tensors)):
        raise RunError(
            f"the checkpoint's optimiser state is of another model: {len(odd)} names differ, such as {odd[0]}",
            code="other_optimizer_state",
        )
    for name, (p, state, moment) in kept.items():
        if isinstance(state[moment], Tensor):
            state[moment].copy_(laid_out_as(tensors[name], p) if state[moment].shape == p.shape else tensors[name])
        else:  # a count of steps
            state[moment] = int(tensors[name])


def whole_weights(policy: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The trainable weights by name, one whole tensor after another; all processes must read on together."""
    reshard(policy)
    for name, p in trainable(policy).items():
        yield name, full_tensor(p.detach())


def policy_tensors(policy: nn.Module) -> dict[str, Tensor]:
    """The trainable weights as whole tensors on the CPU, by name; all processes must ask together."""
    return {name: tensor.cpu() for name, tensor in whole_weights(policy)}


@torch.no_grad()
def restore_policy(policy: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Undo `policy_tensors`.

    Raises:
        RunError: the tensors are those of another model.
    """
    reshard(policy)  # the gathered weights are copies: what is written there does not last
    parameters = trainable(policy)
    if odd := sorted(set(parameters) ^ set(tensors)):
        raise RunError(
            f"the checkpoint's weights are of another model: {len(odd)} names differ, such as {odd[0]}",
            code="other_model",
        )
    for name, p in parameters.items():
        if p.shape != tensors[name].shape:
            raise RunError(
                f"the checkpoint's {name} is {list(tensors[name].shape)} and the model's {list(p.shape)}; "
                "the run was of another model",
                code="other_model",
            )
        p.copy_(laid_out_as(tensors[name], p))
