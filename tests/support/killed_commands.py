"""Commands that a signal ends at random moments, each continued; test_killed_commands.py starts this as a module.

The process itself only imports. Every command runs in a child of it, so that a kill is a real one and costs no imports.
"""

import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import transformers.models.llama.modeling_llama

import tiltlm.recipes.answers.compare
import tiltlm.recipes.answers.judge
import tiltlm.recipes.answers.sample
import tiltlm.recipes.studies.best_of_n
import tiltlm.recipes.studies.sweep
from tiltlm.cli.main import main as command_line

LOADED = (
    transformers.models.llama.modeling_llama,
    tiltlm.recipes.answers.compare,
    tiltlm.recipes.answers.judge,
    tiltlm.recipes.answers.sample,
    tiltlm.recipes.studies.best_of_n,
    tiltlm.recipes.studies.sweep,
)
"""What each child would import by itself."""


def start(folder: Path, arguments: Sequence[str]) -> int:
    """Run the command line in a child, whose output goes to log.txt in the folder, and return its process id."""
    child = os.fork()
    if child:
        return child
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    os.environ |= {"TILTLM_CACHE": str(folder / "cache"), "TILTLM_STORE": str(folder / "store")}
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(1)
    sys.argv = ["tiltlm", *arguments]
    code = 0
    try:
        command_line()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        code = 70
    sys.stdout.flush()
    os._exit(code)


def wait(child: int) -> int:
    """Return the exit code of a child; minus the number of the signal that ended it."""
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def main(folder: Path, num_moments: int, commands: Mapping[str, Sequence[Sequence[str]]]) -> None:
    """Run each command whole, then stop it at random moments, twice in a row, and go on; print the exit codes."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, (first, again) in commands.items():
        started = time.perf_counter()
        codes = [wait(start(folder / f"{name}-whole", first))]
        duration = time.perf_counter() - started
        assert codes == [0], (folder / f"{name}-whole" / "log.txt").read_text()
        for k in range(num_moments):
            own, signum = folder / f"{name}-{k}", (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)[k % 3]
            for arguments in (first, again):
                child = start(own, arguments)
                time.sleep(float(rng.uniform(0.02, 1.0)) * duration)
                os.kill(child, signum)
                codes.append(wait(child))
            codes.append(wait(start(own, again)))
            if codes[-1]:
                print((own / "log.txt").read_text()[-3000:], file=sys.stderr)
        print(json.dumps([name, Counter(codes[1:])]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]))
