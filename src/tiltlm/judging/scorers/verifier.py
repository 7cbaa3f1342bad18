"""A Python function as a scorer: it runs in another process, with a time limit for each call."""

import contextlib
import hashlib
import json
import math
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tiltlm.core.errors import ConfigError
from tiltlm.judging.digests import digest_of
from tiltlm.judging.judge import Item, Role, Score, Scorer
from tiltlm.judging.judge_settings import JudgeSettings

START = 60.0
"""Seconds in which the function's module must be imported."""
MAX_REPLY = 1 << 16
"""Bytes of one reply."""


class Verifier(Scorer):
    """A function `f(prompt, response, row) -> float` as a scorer.

    A call that raises, returns no finite number, or takes too long gives an error. So does a call that ends the
    process; the next call starts a new one.
    """

    def __init__(
        self,
        function: str,
        *,
        timeout: float = 10.0,
        timeout_score: float | None = None,
        column: str | None = None,
        role: Role = "held_out",
    ) -> None:
        """Import the function in another process, to know that it is there and which one it is.

        Args:
            function: `module:function`, importable in the folder of the command.
            timeout: Seconds for one call.
            timeout_score: Score of a call that takes longer; None: an error.
            column: The only column of the row that the function reads; None: it may read all.
            role: Its role.

        Raises:
            ConfigError: The name is not of this form, or the function cannot be imported.
        """
        self.function = function
        self.timeout = timeout
        self.timeout_score = timeout_score
        self.role = role
        self.name = function
        self.reads = None if column is None else (column,)
        self.digest = digest_of(
            "verifier", function=function, source=_source_digest(function), timeout_score=timeout_score, column=column
        )

    def score(self, items: Iterable[Item]) -> Iterator[Score]:
        """Yield a score for each item, in order."""
        process: _Process | None = None
        try:
            for item in items:
                process = process or _Process(self.function)
                row = dict(item.row) if self.reads is None else {c: item.row.get(c) for c in self.reads}
                reply = process.ask({"prompt": item.prompt, "response": item.response, "row": row}, self.timeout)
                if reply is None or "ended" in reply:
                    process.stop()
                    process = None
                yield self._score_of(reply)
        finally:
            if process is not None:
                process.stop()

    def _score_of(self, reply: dict[str, Any] | None) -> Score:
        if reply is None:
            if self.timeout_score is not None:
                return Score(self.timeout_score)
            return Score(None, error=f"no score after {self.timeout:g} seconds")
        if "ended" in reply:
            return Score(None, error=f"the process of the function ended: {reply['ended']}")
        if "error" in reply:
            return Score(None, error=str(reply["error"]))
        value = reply["value"]
        if not math.isfinite(value):
            return Score(None, error=f"the score is {value}")
        return Score(value)


def _source_digest(function: str) -> str:
    """Return the digest of the module's file: another version of the function is another judge.

    Raises:
        ConfigError: The name has another form, or the function cannot be imported.
    """
    module, _, attribute = function.partition(":")
    if not (module and attribute.isidentifier()):
        raise ConfigError(
            f"judge.function is {function!r}; write module:function, such as my_checks:is_short",
            code="wrong_type",
            key="judge.function",
        )
    process = _Process(function)
    process.stop()
    return hashlib.sha256(Path(process.file).read_bytes()).hexdigest() if process.file else ""


class _Process:
    """A running `function_process`."""

    def __init__(self, function: str) -> None:
        command = [sys.executable, "-m", "tiltlm.judging.scorers.function_process", function]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, bufsize=0
        )
        self._waiting = selectors.DefaultSelector()
        assert self._process.stdout is not None, "a pipe was asked for"
        self._waiting.register(self._process.stdout, selectors.EVENT_READ)
        self._read = b""
        first = self._reply(START) or {"fatal": f"the module was not imported in {START:g} seconds"}
        if "ready" not in first:
            self.stop()
            raise ConfigError(
                f"judge.function={function}: {first.get('fatal', first.get('ended'))}",
                code="function_not_loaded",
                key="judge.function",
            )
        self.file = str(first["ready"])
        """The file of the function's module; "" if it has none."""

    def ask(self, request: dict[str, Any], timeout: float) -> dict[str, Any] | None:
        """Return the reply to a request; None if it did not come in time."""
        assert self._process.stdin is not None, "a pipe was asked for"
        line = (json.dumps(request, default=str) + "\n").encode()
        with contextlib.suppress(BrokenPipeError):  # then the reply says that the process ended
            self._process.stdin.write(line)
        return self._reply(timeout)

    def _reply(self, timeout: float) -> dict[str, Any] | None:
        assert self._process.stdout is not None, "a pipe was asked for"
        deadline = time.monotonic() + timeout
        while b"\n" not in self._read:
            left = deadline - time.monotonic()
            if left <= 0 or not self._waiting.select(left):
                return None
            block = os.read(self._process.stdout.fileno(), MAX_REPLY)
            if not block or len(self._read) > MAX_REPLY:
                return {"ended": f"exit code {self._process.wait(timeout=5)}" if not block else "its reply is too long"}
            self._read += block
        line, _, self._read = self._read.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def stop(self) -> None:
        """End the process and all that it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._waiting.close()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def verifier(settings: JudgeSettings, role: Role) -> Verifier:
    """Make the verifier that settings describe."""
    return Verifier(
        str(settings.function),
        timeout=settings.timeout,
        timeout_score=settings.timeout_score,
        column=settings.column,
        role=role,
    )
