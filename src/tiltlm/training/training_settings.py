"""Every knob of training, with its default, in one place.

The schema of the command line is read off this dataclass. What can be derived is derived: the learning rate from the
size of the model, the schedule's length from the data.
"""

from dataclasses import dataclass
from typing import Literal

from tiltlm.core.errors import ConfigError

KNOWN_TRACKERS = ("tensorboard", "trackio", "wandb")


def default_learning_rate(num_parameters: int, lora: bool) -> float:
    """The learning rate where none is given: smaller models take larger steps.

    7e-7 · √(7e9 / N), times 10 for adapters, rounded to one digit: 7B gives 7e-7 (the DPO literature's value), 135M
    5e-6, 260k 1e-4.

    Args:
        num_parameters: N, all parameters of the model, adapters or not.
        lora: only adapters are trained.
    """
    rate = 7e-7 * (7e9 / num_parameters) ** 0.5 * (10 if lora else 1)
    return float(f"{rate:.0e}")


@dataclass(frozen=True)
class TrainingSettings:
    """How to train. Nothing here changes what the loss means, only how far and how fast it is followed."""

    learning_rate: float | None = None
    """Peak learning rate; None: `default_learning_rate`, printed."""
    num_epochs: int = 1
    """Passes over the data, each in its own order."""
    max_steps: int | None = None
    """Stop after this many optimiser steps, where that comes before the last epoch ends."""
    batch_size: int = 16
    """Examples of an optimiser step, over all packs and processes; an epoch's last step may have fewer."""
    max_tokens: int = 4096
    """Token budget of a pack, one forward and backward; sets memory, never the result."""
    warmup_ratio: float = 0.1
    """Share of all steps over which the learning rate rises from 0."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate goes on after the warm-up: down to 0, or not at all."""
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = "adamw"
    """AdamW with a memory of 8 bytes a trained parameter, or of 2 (bitsandbytes, the extra `quant`), or of 2 that the
    device may move to the host where it is short of memory (CUDA only)."""
    weight_decay: float = 0.0
    """Decoupled decay of matrices (norms and biases have none)."""
    adam_beta1: float = 0.9
    """Decay of the gradient's running mean."""
    adam_beta2: float = 0.999
    """Decay of the squared gradient's running mean."""
    adam_epsilon: float = 1e-8
    """Added to the denominator of the update."""
    max_grad_norm: float | None = 1.0
    """Gradients longer than this are scaled down to it; None: never."""
    router_aux_loss_coef: float = 0.0
    """Of a mixture of experts: weight of the load-balancing loss beside the objective's, exact over the whole step.
    transformers' scale (the models' own is in their config.json under this name); 0: none."""
    seed: int = 0
    """Decides the order of the examples, together with the data's fingerprint and the epoch."""
    group_by_prompt: bool = False
    """Shuffle prompts in place of examples, so that examples with the same prompt share a step, and its tokens are
    computed once. Steps stay full: one cuts a prompt only where no other fits into it. Examples of a step are less
    independent then."""
    parallel: Literal["replicate", "shard"] = "replicate"
    """Several processes: each has the whole model (`DistributedDataParallel`), or a share of it (`fully_shard`)."""
    eval_every: int | None = None
    """Steps between evaluations on held-out examples; None: at the end of each epoch. Before and after always."""
    best_metric: str | None = None
    """Held-out metric by which the best checkpoint is kept and restored at the end, such as eval_loss or
    eval_rewards/accuracies; None: the last weights are the result."""
    best_direction: Literal["min", "max"] | None = None
    """Which way `best_metric` gets better; None: down for names that end in loss or kl, up for others."""
    early_stopping: int | None = None
    """Stop after this many evaluations in a row without a better `best_metric`; None: never."""
    save_every: int | None = None
    """Steps between checkpoints; None: at the end of each epoch. The last step is always saved."""
    keep_checkpoints: int = 2
    """How many checkpoints stay on disk, the newest ones; the best one stays beside them."""
    log_every: int = 1
    """Steps a line of metrics.jsonl covers; values are means over them."""
    trackers: tuple[str, ...] = ()
    """Where metrics go beside metrics.jsonl: tensorboard, trackio, wandb."""
    max_bad_steps: int = 3
    """Steps in a row with a non-finite loss or gradient, each skipped, after which the run stops."""

    def __post_init__(self) -> None:
        for name in ("num_epochs", "batch_size", "max_tokens", "keep_checkpoints", "log_every", "max_bad_steps"):
            self._at_least_one(name)
        for name in ("max_steps", "eval_every", "save_every", "early_stopping"):
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
        self._known("schedule", self.schedule, ("linear", "cosine", "constant"))
        self._known("optimizer", self.optimizer, ("adamw", "adamw_8bit", "paged_adamw_8bit"))
        self._known("parallel", self.parallel, ("replicate", "shard"))
        self._known("best_direction", self.best_direction, (None, "min", "max"))
        for tracker in self.trackers:
            self._known("trackers", tracker, KNOWN_TRACKERS)
        if self.optimizer != "adamw" and self.parallel == "shard":
            raise ConfigError(
                f"training.optimizer={self.optimizer} quantises whole tensors and training.parallel=shard has none; "
                "use adamw, whose memory is then shared out, or parallel=replicate",
                code="conflict",
                key="training.optimizer",
            )
        if self.best_metric is None:
            for name in ("early_stopping", "best_direction"):
                if getattr(self, name) is not None:
                    raise ConfigError(
                        f"training.{name} has no effect without training.best_metric; name one, such as eval_loss",
                        code="no_effect",
                        key=f"training.{name}",
                    )

    def check_held_out(self, num_held_out: int) -> None:
        """Refuse settings that need held-out examples where there are none.

        Raises:
            ConfigError: one is set and would have no effect.
        """
        for name in ("best_metric", "early_stopping", "eval_every"):
            if getattr(self, name) is not None and num_held_out == 0:
                raise ConfigError(
                    f"training.{name} needs held-out examples and there are none; hold some out, or drop it",
                    code="needs_held_out",
                    key=f"training.{name}",
                )

    @property
    def lower_is_better(self) -> bool:
        """Whether `best_metric` gets better downwards."""
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
