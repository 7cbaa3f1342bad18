"""All training settings with their defaults.

The command line reads its schema from this dataclass. The learning rate is derived from the size of the model, and the
length of the schedule from the data.
"""

from dataclasses import dataclass
from typing import Literal

from tiltlm.core.checks import not_negative, prefix_errors
from tiltlm.core.errors import ConfigError
from tiltlm.distributed.parallelism import Parallel, Parallelism

KNOWN_TRACKERS = ("tensorboard", "trackio", "wandb")


def default_learning_rate(num_parameters: int, lora: bool) -> float:
    """Return the learning rate for a run that names none: smaller models take larger steps.

    It is 7e-7 · √(7e9 / N), times 10 for adapters, rounded to one digit: 7e-7 for 7B (the value of the DPO papers),
    5e-6 for 135M, 1e-4 for 260k.

    Args:
        num_parameters: N, all parameters of the model, trained or not.
        lora: True if only adapters are trained.
    """
    rate = 7e-7 * (7e9 / num_parameters) ** 0.5 * (10 if lora else 1)
    return float(f"{rate:.0e}")


@dataclass(frozen=True)
class TrainingSettings:
    """How to train. No setting here changes the loss itself, except `router_aux_loss_coef`, which adds to it."""

    learning_rate: float | None = None
    """Peak learning rate; None: derived from the size of the model and printed (7B 7e-7, 135M 5e-6, LoRA 10 times as
    much)."""
    num_epochs: int = 1
    """Passes over the data, each in a new order."""
    max_steps: int | None = None
    """Stop after this many optimiser steps, if the last epoch has not ended before; None: no limit."""
    batch_size: int = 16
    """Examples per optimiser step, over all packs and processes; the last step of an epoch may have fewer."""
    max_tokens: int = 4096
    """Token budget of a pack, which is one forward and backward; changes memory, not the result."""
    warmup_ratio: float = 0.1
    """Share of all steps over which the learning rate rises from 0."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Learning rate after the warm-up: linear and cosine fall to 0, constant stays at the peak."""
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = "adamw"
    """adamw needs 8 bytes of memory per trained parameter, adamw_8bit 2 bytes (bitsandbytes, the extra `quant`).
    paged_adamw_8bit (CUDA only) can also move them to the host when the device is short of memory."""
    weight_decay: float = 0.0
    """Decoupled weight decay of matrices; norms and biases have none."""
    adam_beta1: float = 0.9
    """Decay of the gradient's running mean."""
    adam_beta2: float = 0.999
    """Decay of the squared gradient's running mean."""
    adam_epsilon: float = 1e-8
    """Added to the denominator of the update."""
    max_grad_norm: float | None = 1.0
    """A gradient with a larger norm is scaled down to this norm; None: never."""
    router_aux_loss_coef: float = 0.0
    """For a mixture of experts: weight of the load-balancing loss, exact over the whole step, that is added to the
    objective's loss; 0: none. Scaled as in transformers (config.json of a model has its own value under this name)."""
    seed: int = 0
    """Seed of the order of the examples, which also depends on the data and the epoch."""
    group_by_prompt: bool = False
    """Shuffle prompts instead of examples, so that examples with the same prompt share a step and its tokens are
    computed once. Steps stay full: the examples of a prompt are split only if no other prompt fits. The examples of a
    step are then less independent."""
    parallel: Parallel = "replicate"
    """With several processes: replicate gives each the whole model (`DistributedDataParallel`), shard a part of it
    (`fully_shard`), from loading to saving. hybrid shards it within a machine and replicates it between machines."""
    shard_size: int | None = None
    """With `parallel: hybrid`, processes that share one copy of the model; None: those of a machine."""
    cpu_offload: bool = False
    """With `parallel: shard` or `hybrid` on GPUs: hold shards, gradients and optimiser state in the host's memory. A
    layer is copied to the device when it is computed, and the optimiser runs on the CPU."""
    eval_every: int | None = None
    """Steps between evaluations on held-out examples; None: at the end of each epoch. The run always evaluates before
    the first step and after the last."""
    best_metric: str | None = None
    """Held-out metric that chooses the best checkpoint, such as eval_loss or eval_rewards/accuracies. It is restored at
    the end; None: the last weights are the result."""
    best_direction: Literal["min", "max"] | None = None
    """Whether a low or a high `best_metric` is better; None: min for names that end in loss or kl, max for others."""
    early_stopping: int | None = None
    """Stop after this many evaluations in a row without a better `best_metric`; None: never stop early."""
    save_every: int | None = None
    """Steps between checkpoints; None: at the end of each epoch. The last step is always saved."""
    keep_checkpoints: int = 2
    """Number of newest checkpoints to keep on disk; the best one is kept in addition, and the one before the newest
    until a later step has a finite loss."""
    async_checkpoints: bool | None = None
    """Write a checkpoint in a thread while training goes on, from a copy of its tensors in the host's memory. None: on
    GPUs, where the copy is made anyway, and not on CPUs, where it would take memory and the thread would slow the
    steps."""
    log_every: int = 1
    """Steps per line of metrics.jsonl; values are means over them."""
    trackers: tuple[str, ...] = ()
    """Where to show live curves in addition to metrics.jsonl: tensorboard, trackio, wandb."""
    max_bad_steps: int = 3
    """Stop after this many steps in a row with a non-finite loss or gradient; each such step is skipped."""

    def __post_init__(self) -> None:
        for name in ("num_epochs", "batch_size", "max_tokens", "keep_checkpoints", "log_every", "max_bad_steps"):
            self._at_least_one(name)
        for name in ("max_steps", "eval_every", "save_every", "early_stopping", "shard_size"):
            if getattr(self, name) is not None:
                self._at_least_one(name)
        for name in ("learning_rate", "max_grad_norm", "adam_epsilon"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(
                    f"training.{name} is {value}; it must be a positive number",
                    code="not_positive",
                    key=f"training.{name}",
                )
        for name in ("warmup_ratio", "adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(
                    f"training.{name} is {getattr(self, name)}; it must be at least 0 and below 1",
                    code="out_of_range",
                    key=f"training.{name}",
                )
        for name in ("weight_decay", "router_aux_loss_coef"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(
                    f"training.{name} is {getattr(self, name)}; it must be zero or a positive number",
                    code="negative",
                    key=f"training.{name}",
                )
        with prefix_errors("training"):
            not_negative(seed=float(self.seed))
        self._known("schedule", self.schedule, ("linear", "cosine", "constant"))
        self._known("optimizer", self.optimizer, ("adamw", "adamw_8bit", "paged_adamw_8bit"))
        self._known("parallel", self.parallel, ("replicate", "shard", "hybrid"))
        self._known("best_direction", self.best_direction, (None, "min", "max"))
        for tracker in self.trackers:
            self._known("trackers", tracker, KNOWN_TRACKERS)
        self._check_sharding()
        if self.best_metric is None:
            for name in ("early_stopping", "best_direction"):
                if getattr(self, name) is not None:
                    raise ConfigError(
                        f"training.{name} has no effect without training.best_metric; set it, for example to eval_loss",
                        code="no_effect",
                        key=f"training.{name}",
                    )

    def _check_sharding(self) -> None:
        """Refuse what a sharded model cannot use, and settings that only a sharded one reads."""
        if self.optimizer != "adamw" and self.parallelism.is_sharded:
            raise ConfigError(
                f"training.optimizer={self.optimizer} needs whole tensors and training.parallel={self.parallel} splits "
                "them; use training.optimizer=adamw, whose memory is then split too, or training.parallel=replicate",
                code="conflict",
                key="training.optimizer",
            )
        for name, wanted in (("shard_size", ("hybrid",)), ("cpu_offload", ("shard", "hybrid"))):
            if getattr(self, name) and self.parallel not in wanted:
                raise ConfigError(
                    f"training.{name} has no effect with training.parallel={self.parallel}; it needs "
                    f"{' or '.join(wanted)}",
                    code="no_effect",
                    key=f"training.{name}",
                )

    @property
    def parallelism(self) -> Parallelism:
        """How processes share the model."""
        return Parallelism(self.parallel, self.shard_size, self.cpu_offload)

    def check_held_out(self, num_held_out: int) -> None:
        """Refuse settings that need held-out examples if there are none.

        Raises:
            ConfigError: one of them is set.
        """
        for name in ("best_metric", "early_stopping", "eval_every"):
            if getattr(self, name) is not None and num_held_out == 0:
                raise ConfigError(
                    f"training.{name} needs held-out examples and there are none; hold some out, or remove it",
                    code="needs_held_out",
                    key=f"training.{name}",
                )

    @property
    def lower_is_better(self) -> bool:
        """True if a lower `best_metric` is better."""
        if self.best_direction is not None:
            return self.best_direction == "min"
        return (self.best_metric or "").endswith(("loss", "kl"))

    def _at_least_one(self, name: str) -> None:
        if getattr(self, name) < 1:
            raise ConfigError(
                f"training.{name} is {getattr(self, name)}; it must be at least 1",
                code="not_positive",
                key=f"training.{name}",
            )

    @staticmethod
    def _known(name: str, value: str | None, known: tuple[str | None, ...]) -> None:
        if value not in known:
            raise ConfigError(
                f"training.{name} is {value!r}; known: {', '.join(str(k) for k in known)}",
                code="unknown_name",
                key=f"training.{name}",
            )
