"""Where the time of tiltlm's step goes: matrix products, attention, everything else.

    python benchmarks/operators.py [--name micro-hh] [--layouts shared packed] [--reference cached] [--steps 6]

Seconds a step that torch's profiler finds in operators, two first steps left out. The profiler itself costs a few
percent, mostly of small operators. Several layouts take turns in this process, twice each, and the faster one counts:
what is compared here differs by less than two processes on a shared machine do.
"""

import argparse
import json
import tempfile
from pathlib import Path

from steps import DATA
from tiltlm_dpo import Watch, run
from torch.profiler import ProfilerActivity, profile
from workload import WORKLOADS, prepare

PRODUCTS = ("mm", "addmm", "addmm_", "bmm", "baddbmm")


class ProfilingWatch(Watch):
    """Starts the profiler after the second step, stops it before the last."""

    def __init__(self, num_steps: int) -> None:
        super().__init__()
        self.num_steps = num_steps
        self.profiler = profile(activities=[ProfilerActivity.CPU])

    def step(self, *_: int) -> None:
        super().step()
        if len(self.ends) == 2:
            self.profiler.start()
        if len(self.ends) == self.num_steps - 1:
            self.profiler.stop()


def measure(folder: Path, reference: str, layout: str) -> dict[str, float]:
    """Run a prepared workload; seconds a step of each kind of operator."""
    workload = json.loads((folder / "workload.json").read_text())
    watch = ProfilingWatch(workload["num_steps"])
    run(folder, reference, layout, watch=watch)
    seconds = {"matrix products": 0.0, "attention": 0.0, "everything else": 0.0}
    for event in watch.profiler.key_averages():
        own = event.self_cpu_time_total / 1e6 / (workload["num_steps"] - 3)
        if event.key.removeprefix("aten::") in PRODUCTS:
            seconds["matrix products"] += own
        elif "scaled_dot_product" in event.key:
            seconds["attention"] += own
        else:
            seconds["everything else"] += own
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", choices=list(WORKLOADS), default="micro-hh")
    parser.add_argument("--layouts", nargs="+", choices=("shared", "packed", "padded"), default=["shared"])
    parser.add_argument("--reference", choices=("loop", "cached"), default="cached")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), args.name, args.data, args.steps, threads=args.threads)
        found: dict[str, list[dict[str, float]]] = {layout: [] for layout in args.layouts}
        for layout in args.layouts * min(2, len(args.layouts)):
            found[layout].append(measure(Path(folder), args.reference, layout))
    for layout, rounds in found.items():
        seconds = min(rounds, key=lambda own: sum(own.values()))
        total = sum(seconds.values())
        shares = ", ".join(f"{name} {own:.3f} s ({own / total:.1%})" for name, own in seconds.items())
        print(f"{layout}: {total:.3f} s a step, {shares}")


if __name__ == "__main__":
    main()
