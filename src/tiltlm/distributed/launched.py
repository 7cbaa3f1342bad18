"""How many processes a launcher started, known without torch."""

import os
from collections.abc import Callable


def num_launched() -> int:
    """Return the number of processes that a launcher started, this one included; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def in_first_process(act: Callable[[], None]) -> None:
    """Call `act` in rank 0 only; if it raises, every process raises. Without a launcher nothing is imported."""
    if num_launched() == 1:
        act()
        return
    from tiltlm.distributed.ranks import Ranks

    Ranks.join().first(act)
