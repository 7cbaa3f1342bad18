"""The state of a run: the counters that a checkpoint holds, and the identity that a resumed run must share."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from math import isfinite
from typing import Any

from torch import nn

from tiltlm.core.checks import suggestion
from tiltlm.core.errors import ConfigError
from tiltlm.diagnostics.step_metrics import MetricSums, metric_names
from tiltlm.distributed.ranks import Ranks
from tiltlm.objectives.parts.statistics import Memory
from tiltlm.objectives.terms import Objective
from tiltlm.reference import Reference
from tiltlm.training.optim.optimizer import trainable
from tiltlm.training.recorder import MetricsRecord
from tiltlm.training.step import StepResult
from tiltlm.training.training_settings import TrainingSettings

CADENCE = {
    "eval_every", "save_every", "keep_checkpoints", "async_checkpoints", "log_every", "trackers", "max_bad_steps"
}  # fmt: skip
"""Settings that may change when a run is resumed: they do not change what is computed."""
OF_MODEL = "model "
"""Prefix of the parts of an identity that describe the model (`reference.model_facts`)."""
ROUNDING = {"max_tokens", "parallel", "shard_size", "cpu_offload"}
"""Settings that may change as well; the resumed run is then equal to rounding, not bit for bit."""


@dataclass
class TrainingState:
    """Counters of a run: all that resuming needs beside the weights, the optimiser state and the data."""

    step: int = 0
    """Optimiser steps done, skipped ones included."""
    num_tokens: int = 0
    """Input tokens so far, each prompt counted once a step."""
    evaluated_at: int = -1
    """Step of the last evaluation on held-out examples; −1 if there was none."""
    best_step: int | None = None
    """Step of `best_value`."""
    best_value: float | None = None
    """The best value of `training.best_metric` so far."""
    num_stale: int = 0
    """Evaluations in a row without a better value."""
    stopped_early: bool = False
    bad_in_a_row: int = 0
    """Steps skipped because of a non-finite loss or gradient since the last good one."""
    num_bad: int = 0
    """All skipped steps."""
    memory: Memory = ()
    """What the objective's statistic carries from step to step (bco's running means)."""

    def __post_init__(self) -> None:
        self.memory = tuple(self.memory)  # JSON has only lists

    @property
    def updated_at(self) -> int:
        """The last step that changed the weights; 0 if there was none."""
        return self.step - self.bad_in_a_row

    def advance(self, num_tokens: int, good: bool) -> None:
        """Count one more step, taken or skipped."""
        self.step += 1
        self.num_tokens += num_tokens
        self.bad_in_a_row = 0 if good else self.bad_in_a_row + 1
        self.num_bad += not good

    def judge(self, evaluation: MetricsRecord, settings: TrainingSettings) -> bool:
        """Add an evaluation and return whether it is the best so far.

        Raises:
            ConfigError: `best_metric` is not among the measured metrics.
        """
        self.evaluated_at = self.step
        if settings.best_metric is None:
            return False
        if settings.best_metric not in evaluation:
            raise _not_measured(settings.best_metric, [name for name in evaluation if name.startswith("eval_")])
        value = evaluation[settings.best_metric]
        sign = -1 if settings.lower_is_better else 1
        better = isfinite(value) and (self.best_value is None or sign * value > sign * self.best_value)
        if better:
            self.best_step, self.best_value, self.num_stale = self.step, value, 0
        else:
            self.num_stale += 1
            self.stopped_early = settings.early_stopping is not None and self.num_stale >= settings.early_stopping
        return better


def check_best_metric(settings: TrainingSettings, objective: Objective) -> None:
    """Refuse a `best_metric` that no evaluation of this objective measures. `TrainingState.judge` knows the data too.

    Raises:
        ConfigError: there is no such metric.
    """
    known = ["eval_loss", *(f"eval_{name}" for name in metric_names(objective))]
    if settings.best_metric is not None and settings.best_metric not in known:
        raise _not_measured(settings.best_metric, known)


def _not_measured(name: str, known: Collection[str]) -> ConfigError:
    return ConfigError(
        f"training.best_metric: {name!r} is not measured in this run{suggestion(name, known)} Known: "
        f"{', '.join(known)}",
        code="unknown_name",
        key="training.best_metric",
    )


@dataclass
class Window:
    """Sums over the steps since the last record of metrics. `metric_sums` cover this process's examples only."""

    num_steps: int = 0
    loss: float = 0.0
    grad_norm: float = 0.0
    aux_loss: float | None = None
    """None if training has no loss beside the objective's."""
    seconds: float = 0.0
    metric_sums: MetricSums = field(default_factory=MetricSums)

    def add(self, result: StepResult, grad_norm: float, seconds: float) -> None:
        """Add a step that changed the weights."""
        self.num_steps += 1
        self.loss += result.loss
        if result.aux_loss is not None:
            self.aux_loss = (self.aux_loss or 0.0) + result.aux_loss
        self.grad_norm += grad_norm
        self.seconds += seconds
        self.metric_sums = self.metric_sums + result.metric_sums

    def record(self, ranks: Ranks) -> MetricsRecord:
        """Return means over the steps; metrics of rows are means over the rows. All processes must call it together."""
        return {
            "loss": self.loss / self.num_steps,
            **({} if self.aux_loss is None else {"aux_loss": self.aux_loss / self.num_steps}),
            "grad_norm": self.grad_norm / self.num_steps,
            **pooled(self.metric_sums, ranks),
            "seconds": self.seconds,
        }


def pooled(sums: MetricSums, ranks: Ranks) -> dict[str, float]:
    """Return the metrics over the rows of all processes. All must call it together."""
    total: MetricSums = sum(ranks.gather(sums), start=MetricSums())
    return total.means()


@dataclass(frozen=True)
class Origin:
    """What a run was started from, beside its data, its objective and its training settings."""

    identity: Mapping[str, str] = field(default_factory=dict)
    """What a resumed run must share, by names for users (`reference.model_facts`)."""
    rounding: Mapping[str, Any] = field(default_factory=dict)
    """What a resumed run may change; it is then equal to rounding, and says so."""


def identity(
    policy: nn.Module,
    objective: Objective,
    reference: Reference | None,
    settings: TrainingSettings,
    learning_rate: float,
    fingerprint: str,
    origin: Mapping[str, str],
) -> dict[str, Any]:
    """Return what identifies a run, as flat JSON values: if any of them changes, it is another run."""
    names = "\n".join(f"{name} {list(p.shape)}" for name, p in trainable(policy).items())
    own = {f"training.{k}": v for k, v in asdict(settings).items() if k not in CADENCE | ROUNDING}
    return {**own, **origin} | {
        "training.learning_rate": learning_rate,
        "objective": repr(objective),
        "reference": None if reference is None else f"{reference.name} {reference.digest}",
        "training data": fingerprint,
        "trained parameters": sha256(names.encode()).hexdigest()[:16],
    }


def refuse_other_run(then: Mapping[str, Any], now: Mapping[str, Any], written_by: str) -> None:
    """Refuse to resume a run with another identity.

    Args:
        then: `identity` of the run that wrote the checkpoint.
        now: `identity` of this run.
        written_by: The version of tiltlm that wrote the checkpoint.

    Raises:
        ConfigError: something differs, and the message lists it; or the checkpoint was written by a version that did
            not record all of it.
    """
    if not any(name.startswith(OF_MODEL) for name in then) and any(name.startswith(OF_MODEL) for name in now):
        raise ConfigError(
            f"--resume: the checkpoint does not say which model it belongs to, because tiltlm {written_by} did not "
            "record it, so it cannot be checked that this is the same run. Finish the run with that version, or start "
            "again in another folder (output=NEW_FOLDER)",
            code="old_checkpoint",
            key="--resume",
        )
    changed = [_change(k, then, now) for k in sorted({*then, *now}) if then.get(k) != now.get(k)]
    if changed:
        raise ConfigError(
            f"--resume: the checkpoint belongs to another run: {'; '.join(changed)}. Restore these values, or start "
            "again with --overwrite",
            code="other_run",
            key="--resume",
        )


def _change(name: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if name not in then:
        return f"{name} is {now[name]} and was not set"
    return f"{name} was {then[name]} and is {now[name]}" if name in now else f"{name} was {then[name]} and is not set"
