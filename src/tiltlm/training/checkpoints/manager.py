"""Keeps a run's state on disk and brings it back: which tensors and counters, in which process, and when they suffice.

How a checkpoint is written is `checkpoint.py`'s; this is what goes into it.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from tiltlm.core.errors import RunError
from tiltlm.diagnostics.step_metrics import MetricSums
from tiltlm.distributed.ranks import Ranks
from tiltlm.runs.directory import RunDirectory
from tiltlm.training.checkpoints import files as checkpoint
from tiltlm.training.checkpoints.files import Checkpoint
from tiltlm.training.optim.optimizer import optimizer_tensors, policy_tensors, restore_optimizer, restore_policy
from tiltlm.training.state import ROUNDING, TrainingState, Window, refuse_other_run
from tiltlm.training.step import ReferenceLogps
from tiltlm.training.training_settings import TrainingSettings


@dataclass
class CheckpointManager:
    """Commits and restores. Every method is for all processes together; the first writes."""

    run: RunDirectory
    policy: nn.Module
    optimizer: Optimizer
    reference: ReferenceLogps | None
    identity: Mapping[str, Any]
    settings: TrainingSettings
    ranks: Ranks
    note: Callable[[str], None]
    committed: TrainingState | None = None
    """What the newest checkpoint holds."""

    @property
    def setting(self) -> dict[str, Any]:
        """What may change between two resumptions at the price of bit-for-bit equality."""
        return {"num_processes": self.ranks.size} | {name: getattr(self.settings, name) for name in sorted(ROUNDING)}

    def newest(self) -> str:
        """What there is to go back to, as half a sentence."""
        return (
            f"the checkpoint of step {self.committed.step} is intact"
            if self.committed
            else "there is no checkpoint yet"
        )

    def commit(self, progress: TrainingState, window: Window) -> None:
        """Write a checkpoint, unless the newest one holds just this; then remove what is not kept any more."""
        if progress == self.committed:
            return
        state = {
            "progress": asdict(progress),
            "window": asdict(window),
            "identity": self.identity,
            "rng": self.ranks.gather(rng_state()),
        }
        content = Checkpoint(
            policy_tensors(self.policy),
            optimizer_tensors(self.policy, self.optimizer),
            state,
            {} if self.reference is None else self.reference.tensors(),
        )
        folder, step = self.run.checkpoints, progress.step
        protect = () if progress.best_step is None else (progress.best_step,)

        def write() -> None:
            checkpoint.commit(folder, step, content, self.setting)
            checkpoint.rotate(folder, step, self.settings.keep_checkpoints, protect)

        self.ranks.first(write)
        self.committed = replace(progress)

    def restore(self) -> tuple[TrainingState, Window] | None:
        """Weights, the optimiser's memory and counters of the newest checkpoint that verifies; None: there is none.

        Raises:
            ConfigError: it is another run's.
            RunError: all are damaged.
        """
        path = self.ranks.first(lambda: checkpoint.newest_valid(self.run.checkpoints, self.note))
        if path is None:
            self.note("no checkpoint was written before the run ended; beginning at the first step")
            return None
        if changed := checkpoint.changes(path, self.setting):
            self.note(f"resuming is equal to rounding, not bit for bit: {', '.join(changed)}")
        content = checkpoint.load(path)
        refuse_other_run(content.state["identity"], self.identity)
        self._restore_weights(content)
        restore_optimizer(self.policy, self.optimizer, content.optimizer)
        if len(content.state["rng"]) == self.ranks.size:
            restore_rng(content.state["rng"][self.ranks.rank])
        progress, window = TrainingState(**content.state["progress"]), dict(content.state["window"])
        self.committed = replace(progress)
        self.note(f"resuming after step {progress.step} from {path}")
        return progress, Window(**{**window, "metric_sums": MetricSums(**window["metric_sums"])})

    def restore_weights(self, step: int) -> None:
        """The policy, and a reference that moves, as they were after `step`.

        Raises:
            RunError: its checkpoint is damaged.
        """
        path: Path = checkpoint.folder_of(self.run.checkpoints, step)
        if reason := self.ranks.first(lambda: checkpoint.damage(path)):
            raise RunError(f"{path}: the best checkpoint cannot be restored: {reason}", code="damaged")
        self._restore_weights(checkpoint.load(path))

    def _restore_weights(self, content: Checkpoint) -> None:
        restore_policy(self.policy, content.policy)
        if self.reference is not None:
            self.reference.restore(content.reference)


def rng_state() -> dict[str, str]:
    """States of torch's random generators, in hexadecimal. Training draws nothing from them; callers may."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return {device: state.numpy().tobytes().hex() for device, state in states.items()}


def restore_rng(states: Mapping[str, str]) -> None:
    """Undo `rng_state`."""
    tensors = {
        device: torch.frombuffer(bytearray.fromhex(state), dtype=torch.uint8) for device, state in states.items()
    }
    torch.set_rng_state(tensors["cpu"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])
