"""Load blocks of rows in one or several processes, with the same result.

Processes come from a fork server that imports this module and nothing that starts threads. A fork of a process that
has run torch would copy locks that threads hold, and could deadlock.
"""

import os
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from functools import cache
from itertools import islice
from multiprocessing import get_context, parent_process, util
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any, TypeVar

from tiltlm.core.errors import RunError
from tiltlm.data.files.text_files import Row
from tiltlm.data.loader import Loader, RowBlock
from tiltlm.storage.scratch import scratch_folder

T = TypeVar("T")

BLOCK_ROWS = 1024
"""Rows of a block, which are tokenised in one call."""

MANY_ROWS = 20_000
"""From this many rows on, tokenise in several processes and cache the result."""

LONGEST_SOCKET = 103
"""Bytes that the path of a socket may have, on the system that allows fewest."""
SOCKET = "/tiltlm-12345678/pymp-12345678/listener-12345678"
"""What the path of a socket has after the folder for temporary files."""


def load_blocks(loader: Loader, rows: Iterable[Row], from_eval: bool, num_processes: int) -> Iterator[RowBlock]:
    """Yield the rows as blocks of examples, in order. Only a few blocks are in memory at a time.

    Raises:
        DataError: A row is too long under `truncation="error"`, or a conversation without a chat template.
        RunError: As for `map_blocks`.
    """
    sent = loader.to_send() if num_processes > 1 else loader
    return map_blocks(sent.load, rows, from_eval, num_processes, loader.modules)


def map_blocks(
    work: Callable[[list[Row], bool], T],
    rows: Iterable[Row],
    from_eval: bool,
    num_processes: int,
    modules: Sequence[str] = (),
) -> Iterator[T]:
    """Yield what a function returns for each block of rows, in order. Only a few blocks are in memory at a time.

    Args:
        work: Called with the rows of a block and `from_eval`. It is sent to the other processes once.
        rows: Rows of a source.
        from_eval: True for separate held-out data.
        num_processes: Number of processes; 1: this one.
        modules: Modules that `work` needs. They are imported once, before processes start.

    Raises:
        RunError: A process was killed, or there is no folder for the sockets between processes.
    """
    blocks = blocks_of(rows)
    if num_processes == 1:
        for block in blocks:
            yield work(block, from_eval)
        return
    give_sockets_a_folder()
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__, *modules])
    pending: deque[Future[T]] = deque()
    with ProcessPoolExecutor(num_processes, context, _begin, (work,)) as pool:
        try:
            for block in blocks:
                with _without_main():
                    pending.append(pool.submit(_work_on, block, from_eval))
                if len(pending) > 2 * num_processes:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            raise RunError(
                "a process that reads rows was killed, perhaps because the machine had too little memory. Set "
                "data.processes to a smaller number",
                code="process_ended",
                key="data.processes",
            ) from error


@cache
def give_sockets_a_folder() -> None:
    """Let multiprocessing have its sockets in a scratch folder until this process ends.

    Its own choice below TMPDIR may be too long for the name of a socket, and stays for ever after a kill.

    Raises:
        RunError: there is no folder with a short name that this process can write to.
    """
    stack = ExitStack()
    folder, before = stack.enter_context(scratch_folder(_short_folder())), tempfile.tempdir
    util.Finalize(None, stack.close, exitpriority=-200)  # multiprocessing removes its own folder at -100
    tempfile.tempdir = str(folder)
    try:
        util.get_temp_dir()
    finally:
        tempfile.tempdir = before


def _short_folder() -> Path:
    """Return the folder for temporary files, or the system's if the name of the first one is too long for sockets."""
    usual = tempfile.gettempdir()
    for folder in (usual, "/tmp"):
        if len(os.fsencode(folder + SOCKET)) <= LONGEST_SOCKET and os.access(folder, os.W_OK):
            return Path(folder)
    raise RunError(
        f"{usual}: the name of the folder for temporary files is too long for the sockets by which processes that "
        "read rows are started. Set TMPDIR to a folder with a shorter name, or set data.processes=1",
        code="path_too_long",
        key="TMPDIR",
    )


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def blocks_of(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Yield rows in blocks of `BLOCK_ROWS`, the last one smaller."""
    iterator = iter(rows)
    while block := list(islice(iterator, BLOCK_ROWS)):
        yield block


@contextmanager
def _without_main() -> Iterator[None]:
    """Hide the main script while processes start: they do not need it, and would import it and so run it again."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


_work: Callable[[list[Row], bool], Any]
"""What a worker process does with a block. It is sent once, not with every block."""


def _begin(work: Callable[[list[Row], bool], Any]) -> None:
    global _work
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes already use all cores
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes; the one that asked for rows ends them
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when the one that started it has ended, also where that one was killed.

    A process of a pool waits for work, and would wait for ever.
    """
    parent = parent_process()
    assert parent is not None, "only processes of the pool call this"
    parent.join()
    os._exit(1)


def _work_on(rows: list[Row], from_eval: bool) -> Any:
    return _work(rows, from_eval)
