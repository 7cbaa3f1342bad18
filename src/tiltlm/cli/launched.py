"""A command that a launcher (`accelerate launch`, `torchrun`) has started several times over: it speaks once, and what
ends one of its processes ends all, with one exit code.

The processes of a run meet in collective operations, in which the others would wait for ever for one that has failed.
Failures are therefore told through the store by which the processes found each other.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

PATIENCE = 10.0
"""So many seconds may the same error take to reach the other processes too."""
A_MOMENT = 1.0
"""Seconds by which the process that tells an error is ahead: a launcher ends all as soon as the first has ended."""


def is_first() -> bool:
    """Whether this process is the one that speaks."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def fail_together() -> Iterator[None]:
    """Around a whole command. Without a launcher it does nothing and imports nothing.

    An error goes on in one process, the first of those that have one of ours: to be told there. The others end with
    its exit code and without a word. One that waits for a failed process hears of it when their connection breaks
    (gloo), or is ended by the launcher (NCCL).

    Raises:
        SystemExit: the error is another process's to tell.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield
        return
    from tiltlm.distributed import Ranks

    ranks = Ranks.join()
    try:
        yield
    except SystemExit as end:
        if not end.code:
            ranks.leave()
        raise
    except Exception as error:
        codes = exit_codes(ranks.rank, ranks.size, error)
        teller = min(codes, key=lambda rank: (codes[rank] is None, rank))
        if codes[teller] is None or teller == ranks.rank:
            raise
        time.sleep(A_MOMENT)
        sys.exit(codes[teller])


def exit_codes(rank: int, size: int, error: Exception) -> dict[int, int | None]:
    """The failed processes, this one among them, and the exit codes of their errors; None: no error of ours, perhaps
    only the echo of another process's."""
    from torch.distributed import distributed_c10d

    from tiltlm.core.errors import TiltError

    code = error.exit_code if isinstance(error, TiltError) else None
    keys = [f"tiltlm/failed/{other}" for other in range(size)]
    codes = {rank: code}
    with suppress(RuntimeError):  # its host is gone: the launcher's, or the first process where there is none
        store = distributed_c10d._get_default_store()
        store.set(keys[rank], json.dumps(code))
        until = time.monotonic() + PATIENCE
        while not store.check(keys) and time.monotonic() < until:  # `wait` would complain in its own words
            time.sleep(0.05)
        codes |= {other: json.loads(store.get(key)) for other, key in enumerate(keys) if store.check([key])}
    return codes
