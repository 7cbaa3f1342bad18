"""One of several processes that share a model too large to be held twice; started by test_peak_memory.py.

The peak of each process is measured while it loads, takes a step, and saves. With `--whole-copy` the process makes the
mistake that the test must find: it gathers every tensor at once.
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from support.toy_training import rows
from tiltlm.distributed.parallelism import Parallelism
from tiltlm.distributed.ranks import Ranks
from tiltlm.distributed.sharding import Sharding
from tiltlm.distributed.wrapping import full_tensor, reshard
from tiltlm.models import ModelSettings, load_policy, save_policy
from tiltlm.objectives import simpo
from tiltlm.training.allocator import settle
from tiltlm.training.optim.optimizer import build_optimizer
from tiltlm.training.step import Stepper
from tiltlm.training.training_settings import TrainingSettings


def resident(field: str) -> float:
    """Memory of this process in MB: `VmRSS` now, `VmHWM` the peak since it was reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith(field))


class Peak:
    """The peak of a block above what the process held at the start."""

    def __init__(self) -> None:
        self.start = resident("VmRSS")
        self.of: dict[str, float] = {}

    def measure(self, name: str, act):
        """Call `act` and note the peak meanwhile."""
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        result = act()
        self.of[name] = resident("VmHWM") - self.start
        return result


def warm_up(ranks: Ranks, folder: Path) -> None:
    """Do all of it once with a tiny model, so that libraries and buffers of the processes are no part of a peak."""
    run(ranks, folder / "small", folder / "small-saved", False)


def run(ranks: Ranks, model: Path, target: Path, makes_whole_copy: bool) -> dict[str, float]:
    """Load, train and save the model, and return the peak of each part in MB."""
    sharding = Sharding.of(Parallelism("shard"), ranks)
    dist.barrier()
    peak = Peak()
    policy = peak.measure(
        "load", lambda: load_policy(ModelSettings(str(model), precision="float32"), "cpu", sharding=sharding)
    )
    module = policy.module
    if makes_whole_copy:
        whole = peak.measure("load", lambda: [full_tensor(parameter.detach()) for parameter in module.parameters()])
    stepper = Stepper(module, simpo(), None, 60, ranks, noise=1e-6)
    optimizer = build_optimizer(module, TrainingSettings(), 1e-4)

    def step() -> None:
        stepper.train(rows(4))
        optimizer.step()
        optimizer.zero_grad()

    peak.measure("step", step)
    reshard(module)
    peak.measure("save", lambda: save_policy(policy, target))
    if makes_whole_copy:
        del whole
    return peak.of


def main(folder: Path, makes_whole_copy: bool) -> None:
    ranks = Ranks.join(cpu=True)
    settle(is_sharded=True)
    warm_up(ranks, folder)
    peaks = ranks.gather(run(ranks, folder / "model", folder / "saved", makes_whole_copy))
    if ranks.is_first:
        (folder / "peaks.json").write_text(json.dumps(peaks))
    ranks.leave()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), "--whole-copy" in sys.argv)
