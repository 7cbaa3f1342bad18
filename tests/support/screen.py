"""A terminal for tests: a pseudo-terminal as stderr, and the screen that its output makes."""

import os
import pty
import re
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

CODE = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])")


def screen(output: str) -> list[str]:
    """Return the lines that a terminal shows after this output; lines are never longer than its width."""
    lines, row, column = [""], 0, 0
    at = 0
    while at < len(output):
        if code := CODE.match(output, at):
            number, letter = code.groups()
            if letter == "A":
                row = max(0, row - int(number or 1))
            elif letter == "K":
                lines[row] = "" if number == "2" else lines[row][:column]
            else:
                assert letter in "mhl", f"the test's terminal does not know {code[0]!r}"
            at = code.end()
            continue
        character = output[at]
        at += 1
        if character == "\r":
            column = 0
        elif character == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        else:
            lines[row] = lines[row][:column].ljust(column) + character + lines[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]


class Terminal:
    """A pseudo-terminal of 100 columns that collects what is written to it."""

    def __init__(self) -> None:
        self._own, self.fd = pty.openpty()
        termios.tcsetwinsize(self.fd, (40, 100))
        self._pieces: list[bytes] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with suppress(OSError):  # the last writer has closed it
            while piece := os.read(self._own, 4096):
                self._pieces.append(piece)

    def output(self) -> str:
        """Close it, and return everything that was written."""
        os.close(self.fd)
        self._reader.join(timeout=20)
        os.close(self._own)
        return b"".join(self._pieces).decode()


@contextmanager
def stderr_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Let `sys.stderr` be a terminal in the block; after it, the list holds the whole output."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    terminal, found = Terminal(), []
    file = os.fdopen(os.dup(terminal.fd), "w", encoding="utf-8")
    monkeypatch.setattr(sys, "stderr", file)
    try:
        yield found
    finally:
        file.close()
        found.append(terminal.output())
