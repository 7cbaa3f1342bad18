"""Blocks of rows through the loader, one after another or in several processes; what comes out is the same.

Processes come from a fork server that imports this module and nothing that starts threads: to fork a process that has
run torch would copy locks in whatever state they are in.
"""

import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from multiprocessing import get_context
from types import ModuleType

from tiltlm.core.errors import RunError
from tiltlm.data.files.text_files import Row
from tiltlm.data.loader import Loader, RowBlock

ROWS = 1024
"""Rows of a block, tokenised together."""

MANY = 20_000
"""Rows from which on several processes are worth starting, and what is tokenised is worth keeping."""


def load_blocks(loader: Loader, rows: Iterable[Row], from_eval: bool, num_processes: int) -> Iterator[RowBlock]:
    """The rows as blocks of examples, in order; only a few blocks are in memory at a time.

    Raises:
        DataError: a row that the settings do not allow to be left out or cut.
        RunError: a process ended without a word.
    """
    blocks = _blocks(rows)
    if num_processes == 1:
        for block in blocks:
            yield loader.load(block, from_eval)
        return
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__, type(loader.encoder.tokenizer).__module__])
    pending: deque[Future[RowBlock]] = deque()
    bare = replace(loader, encoder=replace(loader.encoder))  # without what an encoder derives from its tokenizer
    with ProcessPoolExecutor(num_processes, context, _begin, (bare,)) as pool:
        try:
            for block in blocks:
                with _without_main():
                    pending.append(pool.submit(_load, block, from_eval))
                if len(pending) > 2 * num_processes:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            raise RunError(
                "a process that tokenises ended without a word; it was killed, perhaps for its memory. Set "
                "data.processes to fewer",
                code="process_ended",
                key="data.processes",
            ) from error


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _blocks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    iterator = iter(rows)
    while block := list(islice(iterator, ROWS)):
        yield block


@contextmanager
def _without_main() -> Iterator[None]:
    """New processes need nothing of the caller's script. They would import it, and so run it, were it to be found."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


_loader: Loader
"""Of a worker process: sent once, and not with every block."""


def _begin(loader: Loader) -> None:
    global _loader
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes themselves are the parallelism
    _loader = loader


def _load(rows: list[Row], from_eval: bool) -> RowBlock:
    return _loader.load(rows, from_eval)
