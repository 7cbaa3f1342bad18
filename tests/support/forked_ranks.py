"""Several processes that train together, forked from one that has imported everything: a start costs no imports."""

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable

import torch
import torch.distributed.fsdp
import transformers.models.llama.modeling_llama
from accelerate import PartialState

import tiltlm.recipes.train
from tiltlm.distributed.ranks import Ranks

LOADED = (torch.distributed.fsdp, transformers.models.llama.modeling_llama, PartialState, tiltlm.recipes.train)
"""What each process would import by itself."""


def launch(num: int, act: Callable[[Ranks], None], meanwhile: Callable[[list[int]], None] = lambda pids: None):
    """Run `act` in `num` processes with a launcher's environment, and return how they ended, negative for a signal.

    `meanwhile` gets the process ids in the parent. If one process is killed, the others end when their connection to it
    breaks, or are ended here, as a launcher does.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    pids = [_fork(rank, num, port, act) for rank in range(num)]
    meanwhile(pids)
    ends: dict[int, int] = {}
    until = None
    while len(ends) < num:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            ends[pid] = os.waitstatus_to_exitcode(status)
            if ends[pid] != 0 and until is None:
                until = time.monotonic() + 3
        elif until is not None and time.monotonic() > until:
            for other in set(pids) - set(ends):
                os.kill(other, signal.SIGKILL)
        else:
            time.sleep(0.002)
    return [ends[pid] for pid in pids]


def _fork(rank: int, num: int, port: int, act: Callable[[Ranks], None]) -> int:
    pid = os.fork()
    if pid:
        return pid
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num), "LOCAL_WORLD_SIZE": str(num),
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
    code = 1
    try:
        ranks = Ranks.join(cpu=True) if num > 1 else Ranks()
        act(ranks)
        ranks.leave()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
