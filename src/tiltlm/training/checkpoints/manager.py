"""Save and restore the state of a run: which tensors and counters a checkpoint holds, and which process writes it.

`files.py` writes and reads the folder of a checkpoint.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
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
    kept: int | None = None
    """Step of a checkpoint that is not removed as an old one, beside the best one of `training.best_metric`."""
    committed: TrainingState | None = None
    """The state in the newest checkpoint; None if there is none."""

    @property
    def setting(self) -> dict[str, Any]:
        """What may change when a run is resumed, which is then equal to rounding and not bit for bit."""
        return {"num_processes": self.ranks.size} | {name: getattr(self.settings, name) for name in sorted(ROUNDING)}

    def newest_intact(self) -> int | None:
        """Return the step of the newest checkpoint whose files are as they were written; None if there is none."""
        folder = self.run.checkpoints
        steps = reversed(checkpoint.steps_in(folder))
        return next((step for step in steps if checkpoint.damage(checkpoint.folder_of(folder, step)) is None), None)

    def commit(self, state: TrainingState, window: Window) -> None:
        """Write a checkpoint, unless the newest one holds the same state; then remove old checkpoints."""
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
        protect = [step for step in (state.best_step, self.kept) if step is not None]

        def write() -> None:
            self.run.check_writer()
            checkpoint.commit(folder, step, content, self.setting)
            checkpoint.rotate(folder, step, self.settings.keep_checkpoints, protect)

        self.ranks.first(write)
        self.committed = replace(state)

    def restore(self) -> tuple[TrainingState, Window] | None:
        """Restore weights and optimiser state from the newest checkpoint that is not damaged, and return its counters.

        Returns:
            None if there is no checkpoint.

        Raises:
            ConfigError: it belongs to another run.
            RunError: all checkpoints are damaged.
        """
        path = self.ranks.first(lambda: checkpoint.newest_valid(self.run.checkpoints, self.note))
        if path is None:
            self.note("no checkpoint was written before the run ended; starting at the first step")
            return None
        if changed := checkpoint.changes(path, self.setting):
            self.note(f"the resumed run will be equal to rounding, not bit for bit: {', '.join(changed)}")
        content = checkpoint.load(path)
        refuse_other_run(content.state["identity"], self.identity)
        self._restore_weights(content)
        restore_optimizer(self.policy, self.optimizer, content.optimizer)
        state, window = TrainingState(**content.state["progress"]), dict(content.state["window"])
        self.committed = replace(state)
        self.note(f"resuming after step {state.step} from {path}")
        return state, Window(**{**window, "metric_sums": MetricSums(**window["metric_sums"])})

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
