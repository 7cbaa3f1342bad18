"""Start several processes as a launcher does, and see how they end."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

NUM_RANKS = 2
CLI = ("-m", "tiltlm")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(arguments, folder: Path, rank: int, port: int, size: int = NUM_RANKS, **environment) -> subprocess.Popen:
    shared = {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1"}
    own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_PORT": str(port), "TILTLM_STORE": str(folder / "store")}
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)], env=os.environ | shared | own | environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@dataclass
class Ended:
    """Exit codes and outputs of the processes, by rank."""

    codes: list[int]
    out: list[str]
    err: list[str]

    def errors(self) -> list[str]:
        return [line for text in self.err for line in text.splitlines() if "error" in line.lower()]


def launch(arguments, folder: Path, meanwhile=lambda processes: None, size: int = NUM_RANKS, **environment) -> Ended:
    """Start the processes as a launcher does, and wait for them. `meanwhile` may end some of them."""
    port = free_port()
    processes = [start(arguments, folder, rank, port, size, **environment) for rank in range(size)]
    try:
        meanwhile(processes)
        outputs = [process.communicate(timeout=500) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return Ended([p.returncode for p in processes], [out for out, _ in outputs], [err for _, err in outputs])


def wait_until(condition: Callable[[], object], seconds: float = 120) -> None:
    """Wait until a condition holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"waited {seconds} s in vain"
        time.sleep(0.05)


def steps_of(run: Path) -> int:
    """Return the number of the newest step in metrics.jsonl; 0 while there is none."""
    metrics = run / "metrics.jsonl"
    return metrics.read_text().count('"loss"') if metrics.exists() else 0


def launch_module(module: str, *arguments: str | Path, num: int, seconds: int) -> str:
    """Run `python -m module` in `num` processes and return what they printed; all of them must succeed."""
    port = free_port()
    shared = {
        "WORLD_SIZE": str(num),
        "LOCAL_WORLD_SIZE": str(num),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)], cwd=Path(__file__).parents[1],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(num)
    ]  # fmt: skip
    try:
        outputs = [process.communicate(timeout=seconds)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0] * num, "\n".join(outputs)
    return "\n".join(outputs)
