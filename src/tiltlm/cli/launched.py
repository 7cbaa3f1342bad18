"""Commands in several processes (`accelerate launch`, `torchrun`).

An error in any rank ends all ranks with one exit code, and one rank prints it: rank 0, or another one if rank 0 is
lost. Without this, a failed process would leave the others waiting in collective operations.
"""

import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Never

from tiltlm.distributed.launched import num_launched

Described = Callable[[Exception], tuple[str, int] | None]
"""Returns the message and the exit code of an error that is not a defect; None for a defect."""


@contextmanager
def fail_together(described: Described, print_error: Callable[[str], None]) -> Iterator[None]:
    """Wrap a whole command: if one process fails, all end with the same exit code and one of them prints the error.

    Without a launcher this does nothing and imports nothing.

    Args:
        described: Tells errors for the user from defects. The traceback of a defect is printed.
        print_error: Prints a message.

    """
    if num_launched() == 1:
        yield
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else torch warns of every broken connection
    from tiltlm.distributed import Ranks

    ranks = Ranks.join()
    try:
        yield
    except SystemExit as end:
        if not end.code:
            ranks.leave()
            raise
        _end_all(end.code if isinstance(end.code, int) else 1, "", False, print_error)
    except Exception as error:
        if found := described(error):
            _end_all(found[1], found[0], True, print_error)
        _end_all(1, traceback.format_exc().rstrip(), False, print_error)
    else:
        ranks.leave()  # a process that ends without it may be aborted by the threads of its connections


def _end_all(exit_code: int, text: str, is_ours: bool, print_error: Callable[[str], None]) -> Never:
    """End this process together with all others; print the message if this is the process that prints."""
    from tiltlm.distributed import watchdog

    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # launchers send it when another process has ended
    dog = watchdog.active()
    ending = dog.fail(exit_code, text, is_ours)
    if ending is None:
        watchdog.end_process(dog.exchange.decision or 1)
    if ending.text:
        print_error(ending.text)
    dog.await_others()
    watchdog.end_process(ending.exit_code)
