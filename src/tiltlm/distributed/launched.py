"""How many processes a launcher started, and how long they wait for each other, known without torch."""

import os
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")

VARIABLE = "TILTLM_RANK_TIMEOUT"
"""Environment variable with the limit in seconds; 0 means no limit."""
DEFAULT_LIMIT = 600.0
OWN_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
"""Environment variable of torchrun: 1 gives every start a store of its own."""


def num_launched() -> int:
    """Return the number of processes that a launcher started, this one included; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def in_first_process(act: Callable[[], Value]) -> Value:
    """Call `act` in rank 0 only and return its result in every process; if it raises, every process raises.

    Without a launcher nothing is imported.
    """
    if num_launched() == 1:
        return act()
    from tiltlm.distributed.ranks import Ranks

    return Ranks.join().first(act)


def check_restarts() -> None:
    """Require of torchrun that a restart gets a new store, if it is to restart the processes.

    Torch 2.13 gives a restart the store of the start before, in which the addresses of its processes are: gloo then
    connects to processes that are gone.

    Raises:
        ConfigError: torchrun has `--max-restarts`, and its store is one for all starts.
    """
    shares = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if shares and os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0":
        from tiltlm.core.errors import ConfigError

        raise ConfigError(
            f"--max-restarts of torchrun needs {OWN_STORE}=1 in its environment, and --standalone or "
            "--rdzv-backend=c10d: otherwise restarted processes look for those before the restart, and cannot start",
            code="restarts_need_own_store",
            key=OWN_STORE,
        )


def rank_timeout() -> float:
    """Return the limit in seconds after which a lost rank, or a run that stands still, ends all processes.

    Raises:
        ConfigError: the environment variable is not a number of seconds.
    """
    text = os.environ.get(VARIABLE, "")
    try:
        limit = float(text) if text else DEFAULT_LIMIT
    except ValueError:
        limit = -1.0
    if not 0 <= limit < float("inf"):
        from tiltlm.core.errors import ConfigError

        raise ConfigError(
            f"the environment variable {VARIABLE} is {text!r}; give seconds, such as 600, or 0 for no limit",
            code="not_a_number",
            key=VARIABLE,
        )
    return limit
