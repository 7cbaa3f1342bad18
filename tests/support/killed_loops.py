"""Loops that SIGKILL ends, each continued in a new process; test_loop.py starts `python -m support.killed_loops`.

The process itself only imports. Every loop runs in a child of it, so that a kill is a real one and costs no imports.
"""

import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
import transformers.models.llama.modeling_llama

import tiltlm
import tiltlm.recipes.online.loop

os.fsync = lambda _: None  # a killed process loses nothing that it has written, on the disk or not
LOADED = (transformers.models.llama.modeling_llama, tiltlm.recipes.online.loop)
"""What each child would import by itself."""
PHASES = [
    "tiltlm.storage.files.write_bytes",
    "tiltlm.sampling.answers.write_bytes",
    "tiltlm.recipes.answers.answers_file.append_line",
    "tiltlm.sampling.engines.own.sample",
    "tiltlm.worlds.text.TextWorld.reward",
    "tiltlm.training.loop.Trainer.train_step",
    "tiltlm.training.checkpoints.files.commit",
    "tiltlm.online.rounds.write_bytes",
]
"""Functions in all phases of a round; the process ends before the call of one of them."""


def watch(ends_at: int | None) -> Counter[str]:
    """Count the calls of the functions in `PHASES`, and end the process before this one of them."""
    calls: Counter[str] = Counter()
    for target in PHASES:
        module, _, name = target.rpartition(".")
        try:
            owner = import_module(module)
        except ModuleNotFoundError:
            parent, _, kind = module.rpartition(".")
            owner = getattr(import_module(parent), kind)
        original = getattr(owner, name)

        def watched(*args, original=original, target=target, **kwargs):
            if calls.total() == ends_at:
                os.kill(os.getpid(), signal.SIGKILL)
            calls[target] += 1
            return original(*args, **kwargs)

        setattr(owner, name, watched)
    return calls


def in_child(act: Callable[[], None], seconds: float | None = None) -> int:
    """Run a function in a child, kill it after so many seconds, and return the signal that ended it, else 0."""
    child = os.fork()
    if not child:
        torch.set_num_threads(1)
        try:
            act()
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the loop failed"
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def main(folder: Path, num_kills: int, num_timed: int, given: dict) -> None:
    """Run a loop whole, then again with a kill at each of some moments, and go on with each."""

    def run(name: str, **more) -> None:
        os.environ["TILTLM_CACHE"] = str(folder / f"cache of {name}")
        tiltlm.loop(output=folder / name, progress=False, **given, **more)

    def whole() -> None:
        calls = watch(None)
        run("whole")
        (folder / "calls.json").write_text(json.dumps(calls))

    def killed(name: str, ends_at: int | None) -> None:
        watch(ends_at)
        run(name)

    started = time.perf_counter()
    in_child(whole)
    duration = time.perf_counter() - started
    total = sum(json.loads((folder / "calls.json").read_text()).values())
    for k, call in enumerate(np.linspace(1, total - 1, num_kills).astype(int)):
        assert in_child(lambda k=k, call=call: killed(f"run-{k}", int(call))) == signal.SIGKILL
    moments = np.random.default_rng(0).uniform(0.3, 0.95, num_timed) * duration
    for k, moment in enumerate(moments, start=num_kills):
        in_child(lambda k=k: killed(f"run-{k}", None), float(moment))
    for k in range(num_kills + num_timed):
        begun = (folder / f"run-{k}" / "run.json").exists()
        if not (folder / f"run-{k}" / "loop.json").exists():
            in_child(lambda k=k, begun=begun: run(f"run-{k}", resume=begun))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4]))
