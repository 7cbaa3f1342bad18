"""Guards of a run: skipped steps, signals, and advice when memory runs out.

A step whose loss or gradient is not finite is skipped, counted, and logged with its rows and its true value. A step
after which a weight is not finite stops the run. The first SIGINT or SIGTERM stops the run before the next pack and
saves a checkpoint; a second one exits at once.
"""

import math
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

import torch

from tiltlm.core.errors import RunError
from tiltlm.distributed.ranks import Ranks
from tiltlm.training.recorder import MetricsRecord
from tiltlm.training.training_settings import TrainingSettings

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(RunError):
    """A signal stopped the run. `exit_code` is the shell's: 143 for SIGTERM, 130 for SIGINT."""

    def __init__(self, signum: int, message: str = "") -> None:
        super().__init__(message or f"stopped by {signal.Signals(signum).name}", code="interrupted")
        self.signum = signum
        self.exit_code = 128 + signum

    def after(self, step: int) -> "Interrupted":
        """Return the same error with the text for the user, once the checkpoint of `step` is saved."""
        return Interrupted(self.signum, f"{self} after step {step}; a checkpoint is saved. Continue with --resume")


class StopSignals:
    """A context in which the first SIGTERM or SIGINT is noted for `poll`, and a second one ends the process at once."""

    def __init__(self, ranks: Ranks) -> None:
        self.received = 0
        """The number of the signal; 0 if there was none."""
        self._ranks = ranks
        self._previous: dict[int, Any] = {}

    def poll(self) -> None:
        """Raise in every process if any of them received a signal. All processes must poll together.

        Raises:
            Interrupted: a signal was received.
        """
        if self._ranks.any(self.received > 0):
            raise Interrupted(max(self._ranks.gather(self.received)))

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        del frame
        if self.received:
            os._exit(128 + signum)
        self.received = signum

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():  # Python lets no other thread set handlers
            self._previous = {s: signal.signal(s, self._handle) for s in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)


@contextmanager
def explained_stop(advice: str) -> Iterator[None]:
    """Replace the end by a signal, outside of training, by the error that says how to go on.

    The command line ends a process by `SystemExit` where no training listens to signals.

    Args:
        advice: How to go on.

    Raises:
        Interrupted: a signal stopped the block.
    """
    try:
        yield
    except SystemExit as stop:
        signum = next((signum for signum in SIGNALS if stop.code == 128 + signum), None)
        if signum is None:
            raise
        raise Interrupted(signum, f"stopped by {signum.name}; {advice}") from None


def is_good(loss: float, grad_norm: float) -> bool:
    """Return whether a step may change the weights: its loss and its gradient are finite."""
    return math.isfinite(loss) and math.isfinite(grad_norm)


def bad_step(
    step: int, loss: float, grad_norm: float, culprits: Sequence[str], rows: Sequence[str]
) -> tuple[MetricsRecord, str]:
    """Return the record of a skipped step for bad_steps.jsonl, and a sentence for the user.

    Args:
        step: Its number, from 1.
        loss: Its true value.
        grad_norm: Its true value.
        culprits: Ids of the examples whose own loss is not finite; empty if only the gradient overflowed.
        rows: Ids of all examples of the step.
    """
    named, which = (culprits, "the loss is not finite in") if culprits else (rows, "its rows are")
    shown = ", ".join(named[:3]) + (f" and {len(named) - 3} more" if len(named) > 3 else "")
    record = {"step": step, "loss": loss, "grad_norm": grad_norm, "culprits": list(culprits), "examples": list(rows)}
    return record, f"step {step} is skipped (loss {loss:g}, gradient norm {grad_norm:g}); {which} {shown}"


def ruined_step(step: int, names: Sequence[str], rate: float, grad_norm: float, newest: int | None) -> RunError:
    """Return the error of a step after which weights are not finite.

    Args:
        step: Its number, from 1.
        names: Names of these weights.
        rate: The learning rate of the step.
        grad_norm: The norm of its gradient, which was finite.
        newest: Step of the newest intact checkpoint; None if there is none.
    """
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    kept = (
        "no checkpoint was written before" if newest is None else f"the checkpoint of step {newest} has finite weights"
    )
    return RunError(
        f"step {step}: after the update {names[0]}{more} holds NaN or infinities, although loss and gradient were "
        f"finite (gradient norm {grad_norm:g}, learning rate {rate:g}). Nothing of this step is saved; {kept}. "
        f"{NEW_RUN}",
        code="weights_not_finite",
        key="training.learning_rate",
    )


NEW_RUN = (
    "Start a run in another folder (output=NEW_FOLDER) with a smaller training.learning_rate; --resume would take the "
    "same step again"
)
"""The way out if an update has ruined the weights."""


def too_many_bad_steps(
    num: int, last: str, ruined_at: int | None, rate: float, good: int | None, settings: TrainingSettings
) -> RunError:
    """Return the error of too many skipped steps in a row.

    Args:
        num: This many steps were skipped.
        last: The sentence about the last one.
        ruined_at: The step whose update ruined the weights; None if the rows are the cause.
        rate: The peak learning rate.
        good: Step of the newest checkpoint that can be continued from; None if there is none.
        settings: The training settings.
    """
    kept = "there is no checkpoint" if good is None else f"the checkpoint of step {good} can be continued from"
    if ruined_at is not None:
        cause = (
            f"The update of step {ruined_at} is the cause: rows whose loss and gradient were finite before it have "
            f"none now; {kept}. The peak learning rate was {rate:g}. {NEW_RUN}"
        )
    else:
        cause = (
            f"The weights are finite, {kept}, and bad_steps.jsonl names the rows. Correct these rows and start again, "
            f"or go on without them: --resume training.max_bad_steps={max(10, 2 * settings.max_bad_steps)}"
        )
    return RunError(
        f"{num} steps in a row were skipped; {last}. {cause}",
        code="too_many_bad_steps",
        key="training.max_bad_steps" if ruined_at is None else "training.learning_rate",
    )


@contextmanager
def explained_out_of_memory(max_tokens: int, newest: Callable[[], int | None]) -> Iterator[None]:
    """Replace an out-of-memory error in the block by one that names the settings that need less memory.

    Args:
        max_tokens: The token budget of a pack.
        newest: Returns the step of the newest intact checkpoint; None if there is none.

    Raises:
        RunError: memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        is_known = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not is_known and "can't allocate memory" not in str(error):
            raise
        peak = f" (peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB)" if torch.cuda.is_available() else ""
        step = newest()
        again = "Start again with --overwrite" if step is None else "Continue with --resume"
        kept = "no checkpoint was written before" if step is None else f"the checkpoint of step {step} is intact"
        raise RunError(
            f"out of memory{peak} with packs of up to {max_tokens} tokens; {kept}. {again} and "
            f"training.max_tokens={max(max_tokens // 2, 1)} (the result is the same), or start a run with "
            "model.gradient_checkpointing=true or an adapter (model.lora=true)",
            code="out_of_memory",
            key="training.max_tokens",
        ) from error
