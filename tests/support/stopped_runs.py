"""Runs of `tiltlm train` that a signal ends at many moments, each continued in a new process.

`python -m support.stopped_runs FOLDER KIND CONFIG` runs the command whole, then again with a signal at each moment, and
goes on with each. The process itself only imports: every run is a child of it, so that a kill is a real one and costs
no imports. `FOLDER/results.json` has one record for each stopped run.
"""

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers.models.llama.modeling_llama

import tiltlm.recipes.train
from tiltlm.cli.main import main as command_line

LOADED = (transformers.models.llama.modeling_llama, tiltlm.recipes.train)
"""What each child would import by itself."""
PHASES = {
    "loading": ("tiltlm.models.loading.choose_layout", 1),
    "tokenising": ("tiltlm.data.loader.Loader.load", 1),
    "reference pass": ("tiltlm.reference.store.store.ReferenceStore.put", 1),
    "describing": ("tiltlm.runs.directory.RunDirectory.write_json", 2),
    "measuring before": ("tiltlm.recipes.train.measure_policy", 1),
    "sampling before": ("tiltlm.sampling.sampler._check_lengths", 1),
    "training": ("tiltlm.training.loop.Trainer.train_step", 2),
    "evaluation": ("tiltlm.training.loop.Trainer.evaluate", 2),
    "saving": ("tiltlm.training.checkpoints.files.commit", 2),
    "saving the last checkpoint": ("tiltlm.training.checkpoints.files.commit", 4),
    "saving the model": ("tiltlm.recipes.train.save_policy", 1),
    "measuring after": ("tiltlm.recipes.train.measure_policy", 2),
    "sampling after": ("tiltlm.sampling.sampler._check_lengths", 3),
    "report": ("tiltlm.recipes.train.write_report", 1),
}
"""Phase of a run of four steps → a function in it, and the call of it, from 1, at whose beginning the signal comes."""
MOMENTS = (
    "os.fsync",
    "os.rename",
    "os.replace",
    "os.unlink",
    "os.mkdir",
    "tiltlm.training.checkpoints.files.save_file",
    "tiltlm.training.recorder.append_line",
    "tiltlm.training.loop.Trainer.train_step",
    "tiltlm.training.loop.Trainer.evaluate",
)
"""Functions that change the disk or take long; a process is killed before the call of one of them."""


def watch(targets: tuple[str, ...], before_call: Callable[[int], None]) -> None:
    """Have a function called before each call of the targets, with the number of calls so far."""
    num_calls = 0
    for target in targets:
        parent, _, name = target.rpartition(".")
        try:
            owner: Any = import_module(parent)
        except ModuleNotFoundError:
            module, _, kind = parent.rpartition(".")
            owner = getattr(import_module(module), kind)

        def wrap(original: Callable) -> Callable:
            def watched(*args, **kwargs):
                nonlocal num_calls
                num_calls += 1
                before_call(num_calls)
                return original(*args, **kwargs)

            return watched

        setattr(owner, name, wrap(getattr(owner, name)))


def in_child(arguments: list[str], errors: Path, prepare: Callable[[], None], kill_after: float | None = None) -> int:
    """Run the command line in a child and return its exit code, or minus the signal that ended it."""
    child = os.fork()
    if not child:
        torch.set_num_threads(1)
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        sys.argv = ["tiltlm", *arguments]
        try:
            prepare()
            command_line()
        except SystemExit as end:
            os._exit(end.code or 0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(99)
        os._exit(0)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Runs:
    """The runs of one configuration, below a folder."""

    def __init__(self, folder: Path, config: Path) -> None:
        self.folder, self.config, self.results = folder, config, []

    def command(self, name: str, prepare: Callable[[], None] = lambda: None, kill_after: float | None = None) -> int:
        """Start or continue the run of this name, and return how its process ended."""
        output = self.folder / name
        os.environ["TILTLM_CACHE"] = str(self.folder / f"cache of {name}")
        goes_on = ["--resume"] if (output / "run.json").exists() else []
        arguments = ["train", str(self.config), f"output={output}", f"reference.store={self.folder / name}.store"]
        return in_child([*arguments, *goes_on], self.folder / f"{name}.txt", prepare, kill_after)

    def stopped(self, name: str, prepare: Callable[[], None], kill_after: float | None = None) -> None:
        """Stop a run, note what is left, and go on with it to its end."""
        ended = self.command(name, prepare, kill_after)
        message = (self.folder / f"{name}.txt").read_text()
        kept = sorted(path.name for path in (self.folder / name / "checkpoints").glob("step-*"))
        (self.folder / f"{name}.txt").unlink()
        went_on = self.command(name)
        self.results.append(
            {"name": name, "ended": ended, "message": message, "kept": kept, "went_on": went_on,
             "errors": (self.folder / f"{name}.txt").read_text()}
        )  # fmt: skip
        shutil.rmtree(self.folder / f"{name}.store", ignore_errors=True)


def main(folder: Path, kind: str, config: Path, num: int = 0, num_timed: int = 0) -> None:
    """Run whole, then with a signal at each moment of this kind: `phases` (SIGTERM) or `kills` (SIGKILL)."""
    runs = Runs(folder, config)
    calls = folder / "calls"

    def count() -> None:
        watch(MOMENTS, lambda number: calls.write_text(str(number)))

    started = time.perf_counter()
    assert runs.command("whole", count) == 0, (folder / "whole.txt").read_text()
    duration = time.perf_counter() - started

    def ends_at(targets: tuple[str, ...], number: int, signum: int) -> Callable[[], None]:
        def end(call: int) -> None:
            if call == number:
                os.kill(os.getpid(), signum)

        return lambda: watch(targets, end)

    if kind == "phases":
        for name, (target, call) in PHASES.items():
            runs.stopped(name, ends_at((target,), call, signal.SIGTERM))
    else:
        for call in np.linspace(1, int(calls.read_text()), num).astype(int):
            runs.stopped(f"call {call}", ends_at(MOMENTS, int(call), signal.SIGKILL))
        rng = np.random.default_rng(0)
        while num_timed:
            moment = float(rng.uniform(0.1, 0.95) * duration)
            runs.stopped(f"after {moment:.3f} s", lambda: None, moment)
            if runs.results[-1]["ended"] == -signal.SIGKILL:
                num_timed -= 1
            else:  # a run on a quieter machine had ended by then
                duration = moment
    (folder / "results.json").write_text(json.dumps(runs.results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), *map(int, sys.argv[4:]))
