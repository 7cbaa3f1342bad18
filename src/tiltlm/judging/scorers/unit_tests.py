"""Unit tests as a scorer: the response is a program, and a column of the row has its tests.

Every program runs in a process of its own, in an empty folder, with an empty environment and limits
(`limited_process.py` says which, and what is not limited).
"""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tiltlm.judging.digests import digest_of
from tiltlm.judging.judge import Item, Role, Score, Scorer
from tiltlm.judging.judge_settings import JudgeSettings
from tiltlm.judging.scorers.rules import FENCED

SCRIPT = Path(__file__).with_name("limited_process.py")
TESTS = "tests"
"""Column of the tests, if the settings name none."""
MAX_REPORT = 1 << 20
"""Bytes of a report."""


class UnitTests(Scorer):
    """The share of its tests that a program passes.

    Tests are Python: one text is one test, a list of texts are several. The program is the last block of code in the
    response, or else all of it.
    """

    name = "tests"

    def __init__(
        self,
        column: str = TESTS,
        *,
        timeout: float = 10.0,
        timeout_score: float | None = None,
        memory: int = 1024,
        role: Role = "held_out",
    ) -> None:
        """Make the scorer.

        Args:
            column: Column of the row with the tests.
            timeout: Seconds for a program and all its tests.
            timeout_score: Score of a program that takes longer; None: an error.
            memory: Megabytes that it may use.
            role: Its role.
        """
        self.column = column
        self.timeout = timeout
        self.timeout_score = timeout_score
        self.memory = memory
        self.role = role
        self.reads = (column,)
        self.digest = digest_of(
            "tests", version=1, column=column, timeout=timeout, timeout_score=timeout_score, memory=memory,
            python=sys.version_info[:2],
        )  # fmt: skip

    def score(self, items: Iterable[Item]) -> Iterator[Score]:
        """Yield a score for each item, in order."""
        for item in items:
            tests = item.row.get(self.column)
            listed = [tests] if isinstance(tests, str) and tests.strip() else tests
            if not isinstance(listed, list | tuple) or not listed or not all(isinstance(t, str) for t in listed):
                yield Score(
                    None, error=f"the row has no tests in its column {self.column!r}: a text or a list of texts"
                )
                continue
            blocks = FENCED.findall(item.response)
            yield self._run(blocks[-1] if blocks else item.response, list(listed))

    def _run(self, program: str, tests: list[str]) -> Score:
        token = secrets.token_hex(16)
        request = {"program": program, "tests": tests, "token": token} | {
            "seconds": self.timeout, "megabytes": self.memory,
        }  # fmt: skip
        report, is_late = run_limited(request, self.timeout)
        if report.get("token") == token:
            passed = report["passed"]
            return Score(sum(passed) / len(passed), raw=str(report.get("note", "")))
        if is_late:
            if self.timeout_score is not None:
                return Score(self.timeout_score, raw="out of time")
            return Score(None, error=f"the tests were not done after {self.timeout:g} seconds")
        return Score(0.0, raw="the program ended the process before its tests were done")


def run_limited(request: dict[str, Any], timeout: float) -> tuple[dict[str, Any], bool]:
    """Run `limited_process.py` on a request.

    Returns:
        Its report, empty if there is none, and whether the time was over.
    """
    read, write = os.pipe()
    try:
        with tempfile.TemporaryDirectory() as folder:
            process = subprocess.Popen(
                [sys.executable, "-I", str(SCRIPT), str(write)],
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                cwd=folder, env={}, pass_fds=(write,), start_new_session=True,
            )  # fmt: skip
            is_late = False
            try:
                process.communicate(json.dumps(request).encode(), timeout=timeout)
            except subprocess.TimeoutExpired:
                is_late = True
            finally:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)  # what the program started, too
                process.communicate()
        is_late = is_late or process.returncode == -getattr(signal, "SIGXCPU", 0) != 0
        os.close(write)
        write = -1
        os.set_blocking(read, False)
        with contextlib.suppress(BlockingIOError, ValueError):
            report: dict[str, Any] = json.loads(os.read(read, MAX_REPORT))
            return report, is_late
        return {}, is_late
    finally:
        for descriptor in (read, write):
            if descriptor >= 0:
                os.close(descriptor)


def unit_tests(settings: JudgeSettings, role: Role) -> UnitTests:
    """Make the scorer that settings describe."""
    return UnitTests(
        settings.column or TESTS,
        timeout=settings.timeout,
        timeout_score=settings.timeout_score,
        memory=settings.memory,
        role=role,
    )
