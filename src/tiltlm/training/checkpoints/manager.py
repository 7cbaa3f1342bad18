"""Save and restore the state of a run: which tensors and counters a checkpoint holds, and which process writes it.

`files.py` writes and reads the folder of a checkpoint.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
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
from tiltlm.training.checkpoints.files import Checkpoint
from tiltlm.training.optim.optimizer import optimizer_tensors, policy_tensors, restore_optimizer, restore_policy
from tiltlm.training.state import ROUNDING, TrainingState, Window, refuse_other_run
from tiltlm.training.training_settings import TrainingSettings


@dataclass
class CheckpointManager:
    """Writes and restores the checkpoints of a run. All processes call its methods together; rank 0 writes."""

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
    """The state in the newest checkpoint; None if there is none."""
    is_proven: bool = False
    """True if a step after the newest checkpoint had a finite loss and gradient."""
    named: set[str] = field(default_factory=set)
    """Names beside the checkpoints that are ignored and were said to be."""

    @property
    def setting(self) -> dict[str, Any]:
        """What may change when a run is resumed, which is then equal to rounding and not bit for bit."""
        own = {name: getattr(self.settings, name) for name in sorted(ROUNDING)}
        return {"num_processes": self.ranks.size, **own, **self.rounding}

    def newest_intact(self) -> int | None:
        """Return the step of the newest checkpoint whose files are as they were written; None if there is none."""
        folder = self.run.checkpoints
        steps = reversed(checkpoint.steps_in(folder))
        return next((step for step in steps if checkpoint.damage(checkpoint.folder_of(folder, step)) is None), None)

    def commit(self, state: TrainingState, window: Window) -> None:
        """Write a checkpoint, unless the newest one holds the same state; then remove old checkpoints.

        Weights that no later step has read may be ruined, although each number is finite. So at least one checkpoint
        with other weights stays until the next good step (`prove`).
        """
        if state == self.committed:
            return
        HERE.enter("save a checkpoint", state.step)
        values = {"progress": asdict(state), "window": asdict(window), "identity": self.identity}
        content = Checkpoint(
            policy_tensors(self.policy),
            optimizer_tensors(self.policy, self.optimizer),
            values,
            {} if self.reference is None else self.reference.tensors(),
        )
        folder, step = self.run.checkpoints, state.step
        before = self.committed
        same = [] if before is None or before.updated_at != state.updated_at or before.step == step else [before.step]

        def write() -> None:
            self.run.check_writer()
            checkpoint.commit(folder, step, content, self.setting)
            checkpoint.rotate(folder, step, max(2, self.settings.keep_checkpoints), self._protected(state), same)

        self.ranks.first(write)
        self.committed, self.is_proven = replace(state), False
        self.name_others()

    def prove(self) -> None:
        """Note that the loss and gradient of a step were finite after the newest checkpoint: it can be continued from.

        A second checkpoint then stays only if `keep_checkpoints` says so.
        """
        if self.committed is None or self.is_proven:
            return
        state, keep, self.is_proven = self.committed, self.settings.keep_checkpoints, True
        if keep == 1:
            self.ranks.first(lambda: checkpoint.rotate(self.run.checkpoints, state.step, 1, self._protected(state)))

    def _protected(self, state: TrainingState) -> list[int]:
        return [step for step in (state.best_step, self.kept) if step is not None]

    def set_aside(self, first: int) -> None:
        """Rename the checkpoints of step `first` and later ones: their weights are ruined."""

        def rename() -> list[Path]:
            steps = [step for step in checkpoint.steps_in(self.run.checkpoints) if step >= first]
            return [checkpoint.set_aside(self.run.checkpoints, step) for step in steps]

        for path in self.ranks.first(rename):
            self.note(f"set aside, because its weights give no finite loss: {path}")

    def restore(self) -> tuple[TrainingState, Window] | None:
        """Restore weights and optimiser state from the newest checkpoint that is not damaged, and return its counters.

        Returns:
            None if there is no checkpoint.

        Raises:
            ConfigError: it belongs to another run.
            RunError: all checkpoints are damaged.
        """
        self.name_others()
        path = self.ranks.first(lambda: checkpoint.newest_valid(self.run.checkpoints, self.note))
        if path is None:
            self.note("no checkpoint was written before the run ended; starting at the first step")
            return None
        if changed := checkpoint.changes(path, self.setting):
            self.note(f"the resumed run will be equal to rounding, not bit for bit: {', '.join(changed)}")
        content = checkpoint.load(path)
        refuse_other_run(content.state["identity"], self.identity, checkpoint.written_by(path))
        self._restore_weights(content)
        restore_optimizer(self.policy, self.optimizer, content.optimizer)
        state, window = TrainingState(**content.state["progress"]), dict(content.state["window"])
        self.committed = replace(state)
        self.note(f"resuming after step {state.step} from {path}")
        return state, Window(**{**window, "metric_sums": MetricSums(**window["metric_sums"])})

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
        path: Path = checkpoint.folder_of(self.run.checkpoints, step)
        if reason := self.ranks.first(lambda: checkpoint.damage(path)):
            raise RunError(f"{path}: the best checkpoint cannot be restored: {reason}", code="damaged")
        self._restore_weights(checkpoint.load(path))

    def _restore_weights(self, content: Checkpoint) -> None:
        restore_policy(self.policy, content.policy)
        if self.reference is not None:
            self.reference.restore(content.reference)
