"""The file that sampling writes: chunk by chunk beside it, then whole. An interrupted call is continued exactly."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tiltlm.core import ConfigError, RunError
from tiltlm.recipes.answers.sample_settings import SampleRequest
from tiltlm.sampling.answers import check_ending, write_plain_rows
from tiltlm.storage.cache import try_lock
from tiltlm.storage.files import append_line, check_file, keep_lines

log = logging.getLogger(__name__)

Rows = list[dict[str, Any]]
NOTHING: Mapping[str, int] = {}


def check_output(request: SampleRequest) -> None:
    """Refuse an output that cannot be written, or that exists and is neither continued nor replaced.

    Raises:
        ConfigError: It is so.
    """
    path = request.output
    if path is None:
        return
    check_ending(path)
    check_file(path, "output")
    if request.resume and request.overwrite:
        raise ConfigError(
            "resume continues the answers and overwrite deletes them; give one of the two",
            code="conflict",
            key="resume",
        )
    if not (request.resume or request.overwrite):
        if path.exists():
            raise ConfigError(
                f"{path} exists; replace it (--overwrite), or name another file", code="exists", key="output"
            )
        if partial_of(path).exists():
            raise ConfigError(
                f"{path}: an earlier call began to write it; continue that (--resume), or start again (--overwrite)",
                code="unfinished",
                key="output",
            )


def partial_of(path: Path) -> Path:
    """Return the file of finished chunks beside an output."""
    return path.with_name(f".{path.name}.partial")


class AnswersFile:
    """The chunks of one call: those an earlier call finished, and those to come."""

    def __init__(self, path: Path | None, finished: Sequence[Rows], dropped: Mapping[str, int] = NOTHING) -> None:
        """Hold the finished chunks, and the causes of answers missing in them; without a path all is in memory."""
        self.path = path
        self.chunks = list(finished)
        self.dropped = Counter(dropped)

    def append(self, rows: Rows, dropped: Mapping[str, int] = NOTHING) -> None:
        """Keep a chunk and why answers are missing in it; with a path it is in the partial file when this returns."""
        if self.path is not None:
            append_line(partial_of(self.path), {"rows": rows, **({"dropped": dict(dropped)} if dropped else {})})
        self.chunks.append(rows)
        self.dropped.update(dropped)

    @property
    def rows(self) -> Rows:
        """All rows."""
        return [row for chunk in self.chunks for row in chunk]

    def finish(self) -> None:
        """Write the whole file and delete the partial one.

        Raises:
            RunError: There is no answer at all; then nothing is kept, so that the next call asks again.
        """
        if not self.rows:
            if self.path is not None:
                partial_of(self.path).unlink(missing_ok=True)
            causes = ", ".join(f"{cause} {count}" for cause, count in self.dropped.items())
            raise RunError(
                f"no prompt has a usable answer ({causes or 'there is no prompt'}). Look at what the engine returns, "
                "then run the command again",
                code="no_answers",
                key="engine.name",
            )
        if self.path is not None:
            write_plain_rows(self.path, self.rows)
            partial_of(self.path).unlink(missing_ok=True)


@contextmanager
def open_answers(request: SampleRequest, identity: Mapping[str, Any]) -> Iterator[AnswersFile]:
    """Open the file of a call, with the chunks that an earlier call of the same request finished.

    Args:
        request: Output, and whether to continue or to start again.
        identity: Everything that decides the answers, as plain values.

    Raises:
        ConfigError: Another process writes this output, or the earlier call asked for something else.
    """
    path = request.output
    if path is None:
        yield AnswersFile(None, ())
        return
    lock = path.with_name(f".{path.name}.lock")
    with try_lock(lock) as is_ours:
        if not is_ours:
            raise ConfigError(f"{path}: another process is writing it now", code="in_use", key="output")
        partial = partial_of(path)
        if request.overwrite:
            partial.unlink(missing_ok=True)
        chunks: list[Rows] = []
        dropped: Counter[str] = Counter()
        if partial.exists() and (lines := keep_lines(partial, lambda _: True)):
            _refuse_another(path, lines[0]["request"], identity)
            chunks = [line["rows"] for line in lines[1:]]
            dropped = sum((Counter(line.get("dropped", {})) for line in lines[1:]), dropped)
            log.info("%s: %d chunks are finished; continued", path, len(chunks), extra={"event": "answers_resumed"})
        else:
            partial.unlink(missing_ok=True)
            append_line(partial, {"request": identity})
        try:
            yield AnswersFile(path, chunks, dropped)
        finally:
            lock.unlink(missing_ok=True)


def _refuse_another(path: Path, earlier: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    differing = sorted(key for key in {*earlier, *now} if earlier.get(key) != now.get(key))
    if differing:
        raise ConfigError(
            f"{path}: the call that began it differs in {', '.join(differing)}; use the same, or start again "
            "(--overwrite)",
            code="other_request",
            key=differing[0],
        )
