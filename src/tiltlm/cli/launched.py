"""Commands in several processes (`accelerate launch`, `torchrun`).

Only rank 0 prints, and an error in any rank stops all ranks with one exit code. Without this, a failed process would
leave the others waiting in collective operations. Failures are exchanged through the store by which the processes found
each other.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

WAIT_FOR_OTHERS = 10.0
"""Seconds to wait for the same error in the other processes."""
LEAD = 1.0
"""Seconds that the other processes wait before they end: a launcher ends all processes when the first one ends."""


@contextmanager
def fail_together() -> Iterator[None]:
    """Wrap a whole command: if one process fails, all end with the same exit code and one of them prints the error.

    The error is raised in the lowest failed rank that has one of our errors; the other processes end silently with its
    exit code. A process that waits for a failed one notices when the connection breaks (gloo), or is ended by the
    launcher (NCCL). Without a launcher this does nothing and imports nothing.

    Raises:
        SystemExit: Another process prints the error.
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
        printing = min(codes, key=lambda rank: (codes[rank] is None, rank))
        if codes[printing] is None or printing == ranks.rank:
            raise
        time.sleep(LEAD)
        sys.exit(codes[printing])


def exit_codes(rank: int, size: int, error: Exception) -> dict[int, int | None]:
    """Return the exit code of every failed process, this one among them.

    None means that the error is not one of ours; it may be the consequence of another process's failure.
    """
    from torch.distributed import distributed_c10d

    from tiltlm.core.errors import TiltError

    code = error.exit_code if isinstance(error, TiltError) else None
    keys = [f"tiltlm/failed/{other}" for other in range(size)]
    codes = {rank: code}
    with suppress(RuntimeError):  # the process that hosts the store has ended: the launcher, or else rank 0
        store = distributed_c10d._get_default_store()
        store.set(keys[rank], json.dumps(code))
        until = time.monotonic() + WAIT_FOR_OTHERS
        while not store.check(keys) and time.monotonic() < until:  # `wait` would log messages of its own
            time.sleep(0.05)
        codes |= {other: json.loads(store.get(key)) for other, key in enumerate(keys) if store.check([key])}
    return codes
