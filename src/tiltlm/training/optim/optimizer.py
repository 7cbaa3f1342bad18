"""The optimiser and the learning rate: AdamW from torch or bitsandbytes, schedules from transformers.

The learning rate is a pure function of the step, and the optimiser state is a set of named tensors
(`training/checkpoints/tensors.py`). A checkpoint therefore needs only a counter and safetensors, nothing pickled.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from transformers import get_scheduler

from tiltlm.core.finite import not_finite
from tiltlm.distributed.wrapping import full_tensor, local_part, reshard
from tiltlm.training.optim.quantised import build_quantised
from tiltlm.training.training_settings import TrainingSettings

FUSED = {"cpu", "cuda", "mps", "xpu"}
VALUE_HEAD = "value_head."
"""In the names of the parameters of a critic (`PolicyModule.add_value_head`)."""


def trainable(policy: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that training changes, by name. A shared parameter appears once."""
    return {name: p for name, p in policy.named_parameters() if p.requires_grad}


def build_optimizer(
    policy: nn.Module, settings: TrainingSettings, learning_rate: float, value_learning_rate: float | None = None
) -> Optimizer:
    """Build the AdamW that `settings.optimizer` names, over the trainable parameters.

    Weight decay applies to matrices only, not to norms and biases, nor to the value head of a critic.

    Args:
        policy: The module.
        settings: The kind of AdamW and its constants.
        learning_rate: The peak.
        value_learning_rate: The peak for the value head; None: the same.

    Raises:
        ConfigError: an 8-bit optimiser is named, and bitsandbytes is missing or does not run on this device.
    """
    named = trainable(policy)
    of_values = [p for name, p in named.items() if VALUE_HEAD in name]
    parameters = [p for name, p in named.items() if VALUE_HEAD not in name]
    factor = (value_learning_rate or learning_rate) / learning_rate
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        {"params": of_values, "weight_decay": 0.0, "factor": factor},
    ]
    groups = [group for group in groups if group["params"]]
    options: dict[str, Any] = {
        "lr": learning_rate,
        "betas": (settings.adam_beta1, settings.adam_beta2),
        "eps": settings.adam_epsilon,
    }
    if settings.optimizer != "adamw":
        return build_quantised(policy, settings.optimizer, groups, **options)
    return AdamW(groups, **options, fused={p.device.type for p in named.values()} <= FUSED)


@torch.no_grad()
def share_unmoved(policy: nn.Module, rate: float) -> float:
    """Return the share of the trained weights that a step of size `rate` leaves as they are, because of rounding.

    AdamW changes a weight by about the learning rate, whatever the size of its gradient. A weight w of a dtype with
    relative spacing ε stays as it is if that is less than about ε·w/2: 0.2 % of w in bfloat16.
    """
    weights = list(trainable(policy).values())
    unmoved = sum(int(full_tensor(((w + rate == w) & (w - rate == w)).sum())) for w in weights)
    return unmoved / max(1, sum(w.numel() for w in weights))


def learning_rate_factor(settings: TrainingSettings, num_steps: int) -> Callable[[int], float]:
    """Return the function from step i = 0, 1, … to the learning rate as a share of its peak.

    Args:
        settings: The name of the schedule, and the share of warm-up steps.
        num_steps: All steps of the run.
    """
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
    """Set the learning rate of the next step in every parameter group, in proportion to its own peak."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("factor", 1.0)


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float | None) -> float:
    """Scale the gradient down to `max_norm` if it is longer, and return its Euclidean norm before that.

    Args:
        parameters: The trained parameters; sharded ones count with their parts on all processes.
        max_norm: None means that nothing is scaled.
    """
    norm = torch.nn.utils.clip_grad_norm_(parameters, float("inf") if max_norm is None else max_norm)
    return float(full_tensor(norm).item())


def ruined_weights(policy: nn.Module) -> list[str]:
    """Return the names of the trained weights that hold NaN or an infinity in the part that this process holds."""
    reshard(policy)  # the optimiser changes the shards
    return not_finite({name: local_part(p.detach()) for name, p in trainable(policy).items()})


def whole_weights(policy: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the trainable weights by name, one whole tensor at a time; all processes must read on together."""
    reshard(policy)
    for name, p in trainable(policy).items():
        yield name, full_tensor(p.detach())
