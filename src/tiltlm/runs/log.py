"""The log file of a run: every message of tiltlm, details included, with its time.

A run logs what it decides before it makes its directory. So messages are kept until there is a file for them.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOG = "log.txt"
_FORMAT = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%d %H:%M:%S")
_newest: list[Path] = []
"""The log file of this process's newest run."""


class RunLog(logging.Handler):
    """A handler that keeps messages until it has a file, and then appends them to it."""

    def __init__(self) -> None:
        """Keep messages from now on."""
        super().__init__(logging.DEBUG)
        self.setFormatter(_FORMAT)
        self._kept: list[str] = []
        self._path: Path | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Keep or write one message."""
        self._kept.append(self.format(record) + "\n")
        self._write()

    def write_to(self, folder: Path) -> None:
        """Write to log.txt in this folder: what was kept, and all messages from now on. A resumed run appends."""
        self._path = folder / LOG
        _newest[:] = [self._path]
        self._write()

    def _write(self) -> None:
        if self._path is None:
            return
        with suppress(OSError), self._path.open("a", encoding="utf-8", errors="replace") as file:
            file.writelines(self._kept)  # a log that cannot be written is no reason to stop a run
        self._kept.clear()


def append_error(message: str) -> None:
    """Append the error that ended a command to the log of the run that it ended, if there is one."""
    record = logging.LogRecord("tiltlm", logging.ERROR, "", 0, message, None, None)
    for path in _newest:
        with suppress(OSError), path.open("r+", encoding="utf-8", errors="replace") as file:
            file.seek(0, 2)
            file.write(_FORMAT.format(record) + "\n")


class ToRoot(logging.Handler):
    """A handler that passes messages on to the root logger."""

    def emit(self, record: logging.LogRecord) -> None:
        """Pass on one message."""
        logging.getLogger().handle(record)


@contextmanager
def run_log() -> Iterator[RunLog]:
    """Collect all messages of tiltlm while it is entered, details (level DEBUG) among them.

    The level of the logger is lowered for that. Handlers of the program around it get what they would get otherwise.
    """
    logger = logging.getLogger("tiltlm")
    level, propagate = logger.level, logger.propagate
    collected = RunLog()
    added = [collected, *([ToRoot(logger.getEffectiveLevel())] if propagate else [])]
    for handler in added:
        logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    try:
        yield collected
    finally:
        for handler in added:
            logger.removeHandler(handler)
        logger.propagate = propagate
        logger.setLevel(level)
