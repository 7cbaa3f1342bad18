"""The optimiser and the learning rate: AdamW from torch, schedules from transformers.

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
from tiltlm.training.settings import TrainingSettings
from tiltlm.training.wrapping import forget_gathered, like, whole

FUSED = {"cpu", "cuda", "mps", "xpu"}
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def trainable(policy: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that training changes, by name, each once however often the model uses it."""
    return {name: p for name, p in policy.named_parameters() if p.requires_grad}


def build_optimizer(policy: nn.Module, settings: TrainingSettings, learning_rate: float) -> AdamW:
    """AdamW over the trainable parameters; weight decay touches matrices only, never norms and biases."""
    parameters = list(trainable(policy).values())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return AdamW(
        [group for group in groups if group["params"]],
        lr=learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
        fused={p.device.type for p in parameters} <= FUSED,
    )


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


def clip(parameters: Iterable[nn.Parameter], max_norm: float | None) -> float:
    """Scale the gradient down to `max_norm` where it is longer; its Euclidean norm before that, over all processes."""
    norm = torch.nn.utils.clip_grad_norm_(parameters, float("inf") if max_norm is None else max_norm)
    return float(whole(norm).item())


def optimizer_tensors(policy: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """AdamW's memory as `parameter.moment` → whole tensor on the CPU; empty before the first step."""
    forget_gathered(policy)  # it is kept by shard
    return {
        f"{name}.{moment}": whole(optimizer.state[p][moment]).cpu()
        for name, p in trainable(policy).items()
        if p in optimizer.state
        for moment in MOMENTS
    }


def restore_optimizer(policy: nn.Module, optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Undo `optimizer_tensors`.

    Raises:
        RunError: the tensors are those of other parameters.
    """
    expected = {f"{name}.{moment}" for name in trainable(policy) for moment in MOMENTS} if tensors else set()
    if expected != set(tensors):
        odd = sorted(expected ^ set(tensors))
        raise RunError(
            f"the checkpoint's optimiser state is of another model: {len(odd)} names differ, such as {odd[0]}"
        )
    for name, p in trainable(policy).items() if tensors else ():
        state = {moment: like(tensors[f"{name}.{moment}"], p) for moment in MOMENTS[1:]}
        optimizer.state[p] = {"step": tensors[f"{name}.step"].to(p.device), **state}


def whole_weights(policy: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The trainable weights by name, one whole tensor after another; all processes must read on together."""
    forget_gathered(policy)
    for name, p in trainable(policy).items():
        yield name, whole(p.detach())


def policy_tensors(policy: nn.Module) -> dict[str, Tensor]:
    """The trainable weights as whole tensors on the CPU, by name; all processes must ask together."""
    return {name: tensor.cpu() for name, tensor in whole_weights(policy)}


@torch.no_grad()
def restore_policy(policy: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Undo `policy_tensors`.

    Raises:
        RunError: the tensors are those of another model.
    """
    forget_gathered(policy)  # the gathered weights are copies: what is written there does not last
    parameters = trainable(policy)
    if odd := sorted(set(parameters) ^ set(tensors)):
        raise RunError(f"the checkpoint's weights are of another model: {len(odd)} names differ, such as {odd[0]}")
    for name, p in parameters.items():
        if p.shape != tensors[name].shape:
            raise RunError(
                f"the checkpoint's {name} is {list(tensors[name].shape)} and the model's {list(p.shape)}; "
                "the run was of another model"
            )
        p.copy_(like(tensors[name], p))
