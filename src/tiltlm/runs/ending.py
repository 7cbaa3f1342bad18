"""How a run ended: a small file that a run writes last. A process that was killed leaves none."""

import json
import signal
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from tiltlm.core.errors import RunError, TiltError
from tiltlm.storage.files import write_json

ENDED = "ended.json"
BY_SIGNAL = {128 + number: signal.Signals(number).name for number in (signal.SIGINT, signal.SIGTERM)}
"""Exit code → the signal that it means."""


@dataclass(frozen=True)
class Ending:
    """How a run ended."""

    state: Literal["finished", "stopped", "failed"]
    """`stopped`: by a signal."""
    at: str
    """ISO 8601."""
    exit_code: int = 0
    code: str = ""
    """The stable code of the error; the class of an error that is not ours."""
    key: str = ""
    message: str = ""


def ending_of(error: BaseException | None) -> Ending:
    """Return how a run ends with this error; None means that it is finished."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    if error is None:
        return Ending("finished", at)
    if isinstance(error, KeyboardInterrupt):
        exit_code = 128 + signal.SIGINT
    elif isinstance(error, SystemExit):
        exit_code = error.code if isinstance(error.code, int) else 1
    else:
        exit_code = getattr(error, "exit_code", 1)
    code, key = type(error).__name__, ""
    if isinstance(error, TiltError):
        code, key = error.code or code, error.key or ""
    message = str(error) if str(error) and not isinstance(error, SystemExit) else ""
    if exit_code in BY_SIGNAL:
        return Ending("stopped", at, exit_code, code, key, message or f"stopped by {BY_SIGNAL[exit_code]}")
    return Ending("failed", at, exit_code, code, key, message or code)


def write_ending(folder: Path, error: BaseException | None) -> None:
    """Write how a run ended. Where that fails, as on a full disk, the error of the run is the one that counts."""
    with suppress(RunError):
        write_json(folder / ENDED, asdict(ending_of(error)))


def read_ending(folder: Path) -> Ending | None:
    """Return how a run ended; None if it runs, was killed, or the file cannot be read."""
    with suppress(OSError, ValueError, TypeError):
        found = Ending(**json.loads((folder / ENDED).read_text(encoding="utf-8")))
        if found.state in ("finished", "stopped", "failed"):
            return found
    return None
