"""Save and restore the state of a run: which tensors and counters a checkpoint holds, and which process writes it.

`files.py` writes and reads the folder of a checkpoint. With `training.async_checkpoints` a thread writes a copy while
training goes on.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from tiltlm.core.errors import RunError
from tiltlm.diagnostics.step_metrics import MetricSums
from tiltlm.distributed.position import HERE
from tiltlm.distributed.ranks import Ranks
from tiltlm.reference import Reference
from tiltlm.runs.directory import RunDirectory
from tiltlm.training.checkpoints import files as checkpoint
from tiltlm.training.checkpoints.background import Background
from tiltlm.training.checkpoints.files import Checkpoint
from tiltlm.training.checkpoints.tensors import (
    optimizer_tensors,
    policy_tensors,
    restore_optimizer,
    restore_policy,
    restore_reference,
)
from tiltlm.training.state import ROUNDING, TrainingState, Window, refuse_other_run
from tiltlm.training.training_settings import TrainingSettings


@dataclass
class CheckpointManager:
    """Writes and restores the checkpoints of a run. All processes call its methods together.

    Rank 0 writes whole tensors; of sharded ones each process writes its own.
    """

    run: RunDirectory
    policy: nn.Module
    optimizer: Optimizer
    reference: Reference | None
    identity: Mapping[str, Any]
    settings: TrainingSettings
    ranks: Ranks
    note: Callable[[str], None]
    rounding: Mapping[str, Any] = field(default_factory=dict)
    """What else may change when a run is resumed (`Origin.rounding`)."""
    kept: int | None = None
    """Step of a checkpoint that is not removed as an old one, beside the best one of `training.best_metric`."""
    committed: TrainingState | None = None
    """The state in the newest checkpoint, which may still be in the making; None if there is none."""
    is_proven: bool = False
    """True if a step after the newest checkpoint had a finite loss and gradient."""
    named: set[str] = field(default_factory=set)
    """Names beside the checkpoints that are ignored and were said to be."""
    background: Background = field(default_factory=Background)
    """Writes the checkpoint that is in the making."""
    writing_ranks: Ranks = field(init=False)
    """The same processes; with a group of their own if a thread writes."""

    def __post_init__(self) -> None:
        self.writing_ranks = self.ranks.apart() if self.is_async else self.ranks

    @property
    def is_async(self) -> bool:
        """True if training goes on while a checkpoint is written."""
        chosen = self.settings.async_checkpoints
        return self.ranks.device.type != "cpu" if chosen is None else chosen

    @property
    def setting(self) -> dict[str, Any]:
        """What may change when a run is resumed, which is then equal to rounding and not bit for bit."""
        own = {name: getattr(self.settings, name) for name in sorted(ROUNDING)}
        return {"num_processes": self.ranks.size, **own, **self.rounding}

    def newest_intact(self) -> int | None:
        """Return the step of the newest checkpoint whose files are as they were written; None if there is none.

        One process may call it alone. A checkpoint that is being written is waited for.
        """
        self.background.settle()
        folder = self.run.checkpoints
        steps = reversed(checkpoint.steps_in(folder))
        return next((step for step in steps if checkpoint.damage(checkpoint.folder_of(folder, step)) is None), None)

    def commit(self, state: TrainingState, window: Window) -> None:
        """Write a checkpoint, unless the newest one holds the same state; then remove old checkpoints.

        If a thread writes it, this returns when the tensors are copied; `wait` returns when it is on the disk. Weights
        that no later step has read may be ruined, although each number is finite. So at least one checkpoint with other
        weights stays until the next good step (`prove`).

        Raises:
            RunError: it could not be written, or the one before.
        """
        if state == self.committed:
            return
        HERE.enter("save a checkpoint", state.step)
        self.wait()
        sums = [asdict(own) for own in self.ranks.gather(window.metric_sums)]
        values = {
            "progress": asdict(state),
            "window": asdict(window) | {"metric_sums": sums},
            "identity": self.identity,
        }
        content = Checkpoint(
            policy_tensors(self.policy),
            optimizer_tensors(self.policy, self.optimizer),
            values,
            {} if self.reference is None else self.reference.tensors(),
        )
        before, keep = self.committed, max(2, self.settings.keep_checkpoints)
        same = before is not None and before.updated_at == state.updated_at and before.step != state.step
        replaced = [before.step] if before is not None and same else []
        write = partial(self._write, state.step, keep=keep, protect=self._protected(state), replaced=replaced)
        if not self.is_async:
            write(content)
        else:
            is_needed = content.is_sharded or self.ranks.is_first
            content = content.copied() if is_needed else Checkpoint({}, {}, values)
            self.background.start(partial(write, content))
        self.committed, self.is_proven = replace(state), False
        self.name_others()

    def _write(
        self, step: int, content: Checkpoint, *, keep: int, protect: Sequence[int], replaced: Sequence[int]
    ) -> None:
        """Write a checkpoint, then remove old ones."""
        folder, ranks = self.run.checkpoints, self.writing_ranks
        ranks.first(self.run.check_writer)
        checkpoint.commit(folder, step, content, self.setting, ranks)
        ranks.first(lambda: checkpoint.rotate(folder, step, keep, protect, replaced))

    def prove(self) -> None:
        """Note that the loss and gradient of a step were finite after the newest checkpoint: it can be continued from.

        A second checkpoint then stays only if `keep_checkpoints` says so. While a thread writes the newest one nothing
        is noted: a later step will do.
        """
        if self.committed is None or self.is_proven or self.background.is_busy:
            return
        state, keep, self.is_proven = self.committed, self.settings.keep_checkpoints, True
        if keep == 1:
            self.ranks.first(lambda: checkpoint.rotate(self.run.checkpoints, state.step, 1, self._protected(state)))

    def _protected(self, state: TrainingState) -> list[int]:
        return [step for step in (state.best_step, self.kept) if step is not None]

    def set_aside(self, first: int) -> None:
        """Rename the checkpoints of step `first` and later ones: their weights are ruined."""
        self.background.settle()

        def rename() -> list[Path]:
            steps = [step for step in checkpoint.steps_in(self.run.checkpoints) if step >= first]
            return [checkpoint.set_aside(self.run.checkpoints, step) for step in steps]

        for path in self.ranks.first(rename):
            self.note(f"set aside, because its weights give no finite loss: {path}")

    def poll(self) -> None:
        """Raise in all processes if the checkpoint that a thread writes has failed.

        Raises:
            RunError: it could not be written.
        """
        if self.background.is_busy and not self.ranks.any(not self.background.has_ended):
            self.wait()

    def wait(self) -> None:
        """Wait until the checkpoint that a thread writes is on the disk.

        Raises:
            RunError: it could not be written. The error is the same in all processes.
        """
        self.background.wait()

    def close(self) -> None:
        """Wait for the checkpoint in the making, at the end of a run that may have failed. No error is raised."""
        self.background.settle()

    def restore(self) -> tuple[TrainingState, Window] | None:
        """Restore weights and optimiser state from the newest checkpoint that is not damaged, and return its counters.

        Returns:
            None if there is no checkpoint.

        Raises:
            ConfigError: it belongs to another run.
            RunError: all checkpoints are damaged.
        """
        self.name_others()
        path = checkpoint.newest_valid(self.run.checkpoints, self.note, self.ranks)
        if path is None:
            self.note("no checkpoint was written before the run ended; starting at the first step")
            return None
        if changed := checkpoint.changes(path, self.setting):
            self.note(f"the resumed run will be equal to rounding, not bit for bit: {', '.join(changed)}")
        content = checkpoint.load(path, self.ranks)
        refuse_other_run(content.state["identity"], self.identity, checkpoint.written_by(path))
        self._restore_weights(content)
        restore_optimizer(self.policy, self.optimizer, content.optimizer)
        state, window = TrainingState(**content.state["progress"]), dict(content.state["window"])
        self.committed = replace(state)
        self.note(f"resuming after step {state.step} from {path}")
        return state, Window(**{**window, "metric_sums": own_sums(window["metric_sums"], self.ranks)})

    def name_others(self) -> None:
        """Name once each entry beside the checkpoints that looks like one and is ignored."""
        if new := [name for name in checkpoint.others_in(self.run.checkpoints) if name not in self.named]:
            self.named.update(new)
            self.note(f"{self.run.checkpoints}: ignored, because these are no names of checkpoints: {', '.join(new)}")

    def restore_weights(self, step: int) -> None:
        """Restore the policy, and a reference that moves, from the checkpoint of `step`.

        Raises:
            RunError: it is damaged.
        """
        self.wait()
        path: Path = checkpoint.folder_of(self.run.checkpoints, step)
        if reason := checkpoint.damage(path, self.ranks):
            raise RunError(f"{path}: the best checkpoint cannot be restored: {reason}", code="damaged")
        self._restore_weights(checkpoint.load(path, self.ranks))

    def _restore_weights(self, content: Checkpoint) -> None:
        restore_policy(self.policy, content.policy)
        if self.reference is not None:
            restore_reference(self.reference, content.reference)


def own_sums(saved: Any, ranks: Ranks) -> MetricSums:
    """Return the sums of metrics with which this process goes on.

    Args:
        saved: Those of the processes that wrote the checkpoint, by rank; those of rank 0 alone in format 3.
        ranks: The processes now. If they are as many, each goes on with its own; otherwise rank 0 takes all sums.
    """
    sums = [MetricSums(**own) for own in (saved if isinstance(saved, list) else [saved])]
    if len(sums) == ranks.size:
        return sums[ranks.rank]
    return sum(sums, start=MetricSums()) if ranks.is_first else MetricSums()
