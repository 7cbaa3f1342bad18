"""A program on a pseudo-terminal of its own, as a person starts it."""

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

PATIENCE = 60.0
"""Seconds after which a test gives up."""


class Terminal:
    """A program and what it has written so far."""

    def __init__(self, arguments: Sequence[str], size: tuple[int, int]) -> None:
        self.own, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
        environment = {**os.environ, "TERM": "xterm-256color"}
        environment.pop("NO_COLOR", None)
        self.process = subprocess.Popen(
            arguments, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
        )
        os.close(theirs)
        self.output = b""
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        with suppress(OSError):  # it is closed when the program ends
            while some := os.read(self.own, 65536):
                self.output += some

    def send(self, keys: str) -> None:
        """Type."""
        os.write(self.own, keys.encode())

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is true."""
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, self.output[-3000:]
            assert self.process.poll() is None, self.output[-3000:]
            time.sleep(0.01)

    def sees(self, text: str) -> None:
        """Wait until the program has written a text."""
        self.until(lambda: text.encode() in self.output)

    def wait(self) -> int:
        """Wait for the end, and return the exit code."""
        code = self.process.wait(PATIENCE)
        self.reader.join(PATIENCE)
        return code

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.process.send_signal(signal.SIGKILL)
        self.wait()


@contextmanager
def on_terminal(*arguments: str, size: tuple[int, int] = (80, 24)) -> Iterator[Terminal]:
    """Run `tiltlm` with these arguments on a terminal."""
    start = "from tiltlm.cli.main import main; main()"
    terminal = Terminal([sys.executable, "-c", start, *arguments], size)
    try:
        yield terminal
    finally:
        if terminal.process.poll() is None:
            terminal.kill()
        os.close(terminal.own)
