"""Where the time of tiltlm's step goes: matrix products, attention, everything else.

    python benchmarks/operators.py [--name micro-hh] [--layouts shared packed] [--rounds 3] [--reference cached]
                                    [--steps 6]

Seconds a step that torch's profiler finds in operators, two first steps left out. The profiler itself costs a few
percent, mostly of small operators. Layouts take turns in this process, so that what is compared differs by less than
two processes on a shared machine do; of several rounds the middle one is shown, and the median of the rounds' ratios.
"""

import argparse
import json
import statistics
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
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--reference", choices=("loop", "cached"), default="cached")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), args.name, args.data, args.steps, threads=args.threads)
        found: dict[str, list[dict[str, float]]] = {layout: [] for layout in args.layouts}
        for layout in args.layouts * args.rounds:
            found[layout].append(measure(Path(folder), args.reference, layout))
    totals = {layout: [sum(own.values()) for own in rounds] for layout, rounds in found.items()}
    for layout, rounds in found.items():
        total = statistics.median_low(totals[layout])
        seconds = rounds[totals[layout].index(total)]
        shares = ", ".join(f"{name} {own:.3f} s ({own / total:.1%})" for name, own in seconds.items())
        print(f"{layout}: {total:.3f} s a step, {shares}")
        ratios = [a / b for a, b in zip(totals[layout], totals[args.layouts[0]], strict=True)]
        if layout != args.layouts[0]:
            times = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            print(f"    {times} times as long as {args.layouts[0]}")


if __name__ == "__main__":
    main()
