"""Runs of several processes that are cut and resumed; started as `python -m support.sharded_runs FOLDER`.

FOLDER/cases.json lists the runs, which are made one after the other. FOLDER/results has what came of each: weights,
records of metrics, notes and errors.
"""

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from support.forked_ranks import launch
from support.toy_training import Killed, ToyPolicy, ToyReference, rows
from support.two_ranks import language_model
from tiltlm.core import TiltError
from tiltlm.distributed.ranks import Ranks
from tiltlm.distributed.sharding import Sharding
from tiltlm.distributed.wrapping import full_tensor, reshard
from tiltlm.objectives import dpo
from tiltlm.reference import Reference
from tiltlm.reference.moving import MovingReference
from tiltlm.runs.directory import RunDirectory
from tiltlm.training import loop
from tiltlm.training.checkpoints import files as checkpoint
from tiltlm.training.recorder import Listener
from tiltlm.training.training_settings import TrainingSettings

BEGAN = "began"
"""File that says that a run takes steps."""
SETTINGS = {"num_epochs": 2, "batch_size": 5, "max_tokens": 20, "learning_rate": 0.02, "save_every": 2}


def train(ranks: Ranks, folder: Path, case: dict[str, Any]) -> None:
    """Make one run, and write what came out. An error of ours is a result; any other ends the process."""
    parallel = "replicate" if ranks.size == 1 else "shard"
    settings = TrainingSettings(**SETTINGS | {"parallel": parallel} | case.get("settings", {}))
    if case.get("model") == "moving":
        policy: nn.Module = language_model(True, False)
        if sharding := Sharding.of(settings.parallelism, ranks):
            sharding.divide(policy)
        reference: Reference = MovingReference(policy, 0.4, 2, 40)
    else:
        policy = ToyPolicy(seed=1, dtype=torch.float32, width=case.get("width", 6))
        reference = ToyReference(policy)
    notes: list[str] = []
    error: dict[str, Any] | None = None
    history: list[dict[str, Any]] = []
    stop_after(case.get("stop_after"), folder / BEGAN)
    if case.get("blind"):
        checkpoint.check_space = lambda folder, num_bytes: None

    def step(done: int, total: int) -> None:
        if done == case.get("blocked_at"):  # a file has the name of the folder that the next checkpoint needs
            (folder / case["folder"] / f"checkpoints/.step-{done + 1:08d}.tmp").write_text("in the way")

    try:
        with RunDirectory.open(folder / case["folder"], resume=case.get("resume", False), ranks=ranks) as run:
            result = loop.train_loop(
                policy, rows(12), rows(5, seed=1), dpo(), reference, settings, run, "fingerprint",
                resume=case.get("resume", False), ranks=ranks, listener=Listener(note=notes.append, step=step),
            )  # fmt: skip
            history = result.history
    except Killed:
        pass
    except TiltError as found:
        error = {"code": found.code, "key": found.key, "message": str(found)}
    errors = ranks.gather(error)
    reshard(policy)
    weights = {name: full_tensor(p.detach()).clone() for name, p in policy.named_parameters() if p.requires_grad}
    weights |= {f"reference {name}": full_tensor(tensor).clone() for name, tensor in reference.tensors().items()}
    if ranks.is_first:
        results = folder / "results"
        results.mkdir(exist_ok=True)
        save_file(weights, results / f"{case['name']}.safetensors")
        found = {"history": history, "notes": notes, "errors": errors}
        (results / f"{case['name']}.json").write_text(json.dumps(found))


def stop_after(step: int | None, began: Path) -> None:
    """Let every process stop before the step after this one, as a kill would; write `began` before the first step."""
    plain = loop.Trainer.train_step

    def train_step(self: loop.Trainer) -> None:
        if not began.exists():
            began.touch()
        if self.state.step == step:
            raise Killed
        plain(self)

    loop.Trainer.train_step = train_step  # type: ignore[method-assign]


def harm(path: Path, how: str) -> None:
    """Damage a file of a checkpoint."""
    data = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
        return
    if how == "flipped":
        data[len(data) // 2] ^= 1
    path.write_bytes(data if how == "flipped" else data[:-3])


def killed_again_and_again(folder: Path, case: dict[str, Any], act: Callable[[Ranks], None]) -> dict[str, Any]:
    """Kill the processes of a run some time after they began to train, and let others go on, once for each kill.

    Returns:
        The number of times that a process was killed, and the steps whose checkpoint was damaged after one.
    """
    num_killed, damaged, began = 0, [], folder / BEGAN
    checkpoints = folder / case["folder"] / "checkpoints"
    for kill in case["kills"]:
        began.unlink(missing_ok=True)

        def meanwhile(pids: list[int], kill: dict[str, Any] = kill) -> None:
            until = time.monotonic() + 60
            while not began.exists() and time.monotonic() < until:
                if os.waitid(os.P_PID, pids[0], os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                    return  # the run was at its end
                time.sleep(0.002)
            time.sleep(kill["after"])  # the moment is what the test varies
            for pid in pids if kill["victims"] == "all" else pids[-1:]:
                os.kill(pid, signal.SIGKILL)

        ends = launch(case["num"], act, meanwhile)
        num_killed += -signal.SIGKILL in ends
        steps = checkpoint.steps_in(checkpoints)
        damaged += [step for step in steps if checkpoint.damage(checkpoint.folder_of(checkpoints, step))]
        case["resume"] = True
    return {"num_killed": num_killed, "damaged": damaged}


def main(folder: Path) -> None:
    """Make all runs of cases.json."""
    torch.set_num_threads(1)
    for case in json.loads((folder / "cases.json").read_text()):
        if "copy" in case:
            shutil.copytree(folder / case["copy"], folder / case["folder"])
        for name, how in case.get("harmed", {}).items():
            harm(folder / case["folder"] / "checkpoints" / name, how)

        def act(ranks: Ranks, case: dict[str, Any] = case) -> None:
            train(ranks, folder, case)

        outcome = killed_again_and_again(folder, case, act) if "kills" in case else {}
        if any(ends := launch(case["num"], act)):
            sys.exit(f"{case['name']} ended with {ends}")
        if outcome:
            result = folder / "results" / f"{case['name']}.json"
            result.write_text(json.dumps(json.loads(result.read_text()) | outcome))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
