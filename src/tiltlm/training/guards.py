"""What may not reach the weights, and how a run is stopped.

A step whose loss or gradient is not finite is skipped, counted and written down with its rows and its true value. A
signal is a wish that is honoured at the next pack; a second one is an order.
"""

import math
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

import torch

from tiltlm.core.errors import RunError
from tiltlm.distributed.ranks import Ranks
from tiltlm.training.recorder import MetricsRecord

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(RunError):
    """The run was asked to stop. `exit_code` is the shell's: 143 for SIGTERM, 130 for SIGINT."""

    def __init__(self, signum: int, message: str = "") -> None:
        super().__init__(message or f"stopped by {signal.Signals(signum).name}", code="interrupted")
        self.signum = signum
        self.exit_code = 128 + signum

    def after(self, step: int) -> "Interrupted":
        """The same, for the user, once the checkpoint of `step` is committed."""
        return Interrupted(self.signum, f"{self} after step {step}; its checkpoint is written: go on with --resume")


class StopSignals:
    """While entered, SIGTERM and SIGINT are remembered instead of obeyed; a second one ends the process at once."""

    def __init__(self, ranks: Ranks) -> None:
        self.received = 0
        self._ranks = ranks
        self._before: dict[int, Any] = {}

    def poll(self) -> None:
        """Raise in every process once a signal has reached any of them; all must poll together.

        Raises:
            Interrupted: a signal came.
        """
        if self._ranks.any(self.received > 0):
            raise Interrupted(max(self._ranks.gather(self.received)))

    def _remember(self, signum: int, frame: FrameType | None) -> None:
        del frame
        if self.received:
            os._exit(128 + signum)
        self.received = signum

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():  # Python lets no other thread set handlers
            self._before = {s: signal.signal(s, self._remember) for s in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)


def is_good(loss: float, grad_norm: float) -> bool:
    """Whether a step may reach the weights."""
    return math.isfinite(loss) and math.isfinite(grad_norm)


def bad_step(
    step: int, loss: float, grad_norm: float, culprits: Sequence[str], rows: Sequence[str]
) -> tuple[MetricsRecord, str]:
    """A step that was skipped, as a record for bad_steps.jsonl and as a sentence for the user.

    Args:
        step: Its number, from 1.
        loss: Its true value.
        grad_norm: Its true value.
        culprits: Ids of the examples whose own loss is not finite; empty where only the gradient overflowed.
        rows: Ids of all examples of the step.
    """
    named, which = (culprits, "not finite in") if culprits else (rows, "its rows:")
    shown = ", ".join(named[:3]) + (f" and {len(named) - 3} more" if len(named) > 3 else "")
    record = {"step": step, "loss": loss, "grad_norm": grad_norm, "culprits": list(culprits), "examples": list(rows)}
    return record, f"step {step} is skipped: loss {loss:g}, gradient norm {grad_norm:g}; {which} {shown}"


@contextmanager
def explained_out_of_memory(max_tokens: int) -> Iterator[None]:
    """Turn running out of memory into advice.

    Raises:
        RunError: memory ran out; the message holds the settings that need less.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        peak = f" (peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB)" if torch.cuda.is_available() else ""
        raise RunError(
            f"out of memory{peak} with packs of up to {max_tokens} tokens. The last checkpoint is intact: go on with "
            f"--resume and training.max_tokens={max(max_tokens // 2, 1)} (the result is the same), with gradient "
            "checkpointing, or with adapters (LoRA)",
            code="out_of_memory",
            key="training.max_tokens",
        ) from error
