"""How long a DPO step takes and how much memory it needs: tiltlm beside its peers, on the same tokens.

    python benchmarks/steps.py [--trl-python PYTHON] [--workloads micro-hh ...] [--systems tiltlm ...] [--repeats 5]
                               [--steps N] [--results FILE]

Every measurement is a process of its own and systems take turns. Records are kept as they come, so that an interrupted
benchmark goes on where it was: in results/steps.jsonl, which holds ours, or in the file that `--results` names, which
may be new. `steps_page.py` makes tables and pictures of them. Nothing is shown before all systems of a workload are
seen to compute the same: the same tokens at every step, the loss log 2 at the first, the same gradient norm there, the
same loss after the first update. This process needs no torch.
"""

import argparse
import itertools
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DATA = HERE.parent.parent / "shared" / "data" / "hh-harmless.jsonl.gz"
RESULTS = HERE / "results" / "steps.jsonl"
ALL = ("tiltlm", "tiltlm packed", "plain loop", "TRL default", "TRL best")
SYSTEMS = (*ALL, "tiltlm checkpointed", "TRL whole batch")
"""The last two: each side as the other is by default, with checkpointing, and without it in one batch."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """What is run on a workload."""

    workload: str
    systems: Sequence[str]
    references: Sequence[str] = ("cached",)
    steps: int = 4
    """Of a process; the first is for warming up."""


COMPARISONS = (
    Comparison("micro-hh", SYSTEMS, ("cached", "loop")),
    Comparison("micro49-hh", (*ALL, "tiltlm checkpointed")),
    Comparison("nano-hh", ALL, ("cached", "loop"), steps=12),
    Comparison("micro-tldr", ALL),
    Comparison("micro-ultrafeedback", ALL),
    Comparison("micro-helpsteer", ALL),
    Comparison("micro-capybara", ALL),
    Comparison("micro-group4", ("tiltlm", "TRL default", "TRL best")),
    Comparison("micro-group4-apart", ("tiltlm packed",)),
    Comparison("micro-hh4", ("tiltlm", "TRL default")),
    Comparison("micro-hh16", ("tiltlm", "TRL default")),
    Comparison("micro33-hh", ("tiltlm", "TRL default")),
    Comparison("nano-long", ("tiltlm", "tiltlm packed", "TRL default")),
    Comparison("135M-hh", ALL),
)
"""In the order in which they are run."""


def main() -> int:
    """Measure what is missing, check, print; 1 where records cannot be compared."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [c.workload for c in COMPARISONS]
    parser.add_argument("--trl-python", help="python of an environment with requirements-trl.txt; without it, no TRL")
    parser.add_argument("--data", type=Path, default=DATA, help="HH transcripts, gzipped JSON Lines")
    parser.add_argument("--workloads", nargs="+", choices=names, default=names)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS)
    parser.add_argument("--repeats", type=int, default=5, help="processes of each kind")
    parser.add_argument("--steps", type=int, help="of a process; the first is for warming up (12 at nano-hh, else 4)")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS, help="records are read from here and added")
    args = parser.parse_args()
    if not args.data.is_file():
        parser.error(f"{args.data}: no such file; name one with --data")
    bench = Bench(args.trl_python, args.data, args.precision, args.threads, args.results)
    chosen = [c for c in COMPARISONS if c.workload in args.workloads]
    comparisons = [replace(c, steps=args.steps or c.steps) for c in chosen]
    num_kept = 0
    with tempfile.TemporaryDirectory() as scratch:
        for repeat, comparison in itertools.product(range(args.repeats), comparisons):
            for reference, system in itertools.product(comparison.references, comparison.systems):
                if system in args.systems and not (system.startswith("TRL") and args.trl_python is None):
                    num_kept += not bench.measure(Path(scratch), comparison, reference, system, repeat)
    if num_kept:
        print(f"{num_kept} processes measured before, in {args.results}; --results NEW starts anew", file=sys.stderr)
    records = [r for r in read(args.results) if r["workload"] in args.workloads and r["precision"] == args.precision]
    differences = unequal(records)
    if differences:
        print("these records cannot be compared, they differ in:", *differences, sep="\n  ")
        return 1
    print(report(records))
    return 0


@dataclass
class Bench:
    """How processes are started, and where their records go."""

    trl_python: str | None
    data: Path
    precision: str
    threads: int
    results: Path

    def measure(self, scratch: Path, comparison: Comparison, reference: str, system: str, repeat: int) -> bool:
        """One process, unless its record is there already; whether it ran."""
        about = {
            "workload": comparison.workload, "reference": reference, "system": system, "repeat": repeat,
            "precision": self.precision,
        }  # fmt: skip
        if any(all(record[k] == v for k, v in about.items()) for record in read(self.results)):
            return False
        folder = self.prepare(scratch, comparison)
        about["load_average_before"] = os.getloadavg()[0]
        print(*(f"{key}={value}" for key, value in about.items()), file=sys.stderr)
        output = folder / f"{reference}-{system.replace(' ', '-')}-{repeat}.json"
        self.start([*self.command(system, folder), folder, output, "--reference", reference], folder)
        record = {**about, "processor": processor(), **json.loads(output.read_text())}
        self.results.parent.mkdir(parents=True, exist_ok=True)
        with self.results.open("a") as file:
            file.write(json.dumps(record) + "\n")
        return True

    def prepare(self, scratch: Path, comparison: Comparison) -> Path:
        """The workload's folder, made when first asked for."""
        folder = scratch / comparison.workload
        if not folder.exists():
            folder.mkdir()
            options = ["--name", comparison.workload, "--data", self.data, "--steps", comparison.steps]
            options += ["--precision", self.precision, "--threads", self.threads]
            self.start([sys.executable, HERE / "workload.py", folder, *options], folder)
        return folder

    def command(self, system: str, folder: Path) -> list[Any]:
        """The program of a system with its own options."""
        trl = [self.trl_python, HERE / "peers" / "trl_dpo.py"]
        match system:
            case "tiltlm":
                return [sys.executable, HERE / "tiltlm_dpo.py"]
            case "tiltlm packed":
                return [sys.executable, HERE / "tiltlm_dpo.py", "--layout", "packed"]
            case "tiltlm checkpointed":
                return [sys.executable, HERE / "tiltlm_dpo.py", "--checkpointing"]
            case "plain loop":
                return [sys.executable, HERE / "peers" / "plain_dpo.py"]
            case "TRL default":
                return [*trl, "--setting", "default"]
            case "TRL whole batch":
                return [*trl, "--setting", "best"]
            case "TRL best":
                return [*trl, "--setting", "best", "--micro-batch", self.best_micro_batch(folder)]
            case _:
                raise ValueError(system)

    def best_micro_batch(self, folder: Path) -> int:
        """The size that makes TRL fastest here: one timed step with each, once a workload and kept with the records."""
        workload = json.loads((folder / "workload.json").read_text())
        kept = self.results.with_name(f"{self.results.stem}_micro_batches.json")
        pilots = json.loads(kept.read_text()) if kept.exists() else {}
        seconds = pilots.setdefault(f"{workload['name']} {self.precision}", {})
        for size in (s for s in (1, 2, 4, 8) if workload["pairs_a_step"] % s == 0 and str(s) not in seconds):
            output = folder / f"pilot-{size}.json"
            options = ["--reference", "cached", "--setting", "best", "--micro-batch", size, "--steps", 2]
            self.start([self.trl_python, HERE / "peers" / "trl_dpo.py", folder, output, *options], folder)
            seconds[str(size)] = json.loads(output.read_text())["step_seconds"][0]
            kept.write_text(json.dumps(pilots, indent=2) + "\n")
        print("TRL, seconds a step by micro-batch:", seconds, file=sys.stderr)
        return int(min(seconds, key=seconds.__getitem__))

    def start(self, command: list[Any], folder: Path) -> None:
        """Run a process to its end, offline, with so many threads; its output is shown only where it fails."""
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(self.threads),
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(folder / "cache"),
            "TILTLM_CACHE": str(folder / "cache"),
        }
        words = [str(part) for part in command]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr[-4000:]}")


def read(results: Path) -> list[Record]:
    """What has been measured."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def unequal(records: Sequence[Record]) -> list[str]:
    """In what runs differ from the first of their workload, or from what the first step must give."""
    found = []
    for workload in dict.fromkeys(r["workload"] for r in records):
        runs = [r for r in records if r["workload"] == workload]
        own = runs[0]
        loose = 1e-4 if own["precision"] == "float32" else 2e-2
        for run in runs:
            checks = {
                "tokens": run["tokens"] == own["tokens"],
                "number of steps": len(run["losses"]) == len(own["losses"]),
                "first loss, which must be log 2": abs(run["losses"][0] - math.log(2)) < loose / 10,
                "first gradient norm": math.isclose(run["grad_norms"][0], own["grad_norms"][0], rel_tol=loose),
                "loss after the first update": math.isclose(run["losses"][1], own["losses"][1], rel_tol=loose),
                "threads": run["threads"] == own["threads"],
                "torch": run["versions"]["torch"] == own["versions"]["torch"],
                "processor": run["processor"] == own["processor"],
            }
            name = f"{workload}, {run['system']}, {run['reference']}, repeat {run['repeat']}"
            found += [f"{name}: {check}" for check, ok in checks.items() if not ok]
    return found


@dataclass(frozen=True)
class Summary:
    """A system on a workload: medians over its processes."""

    seconds: float
    by_repeat: dict[int, float]
    """Mean seconds a step of each process."""
    megabytes: float
    peak_share: float | None
    """Necessary work a second over what a large matrix product reaches in the same process."""

    @property
    def processes(self) -> int:
        return len(self.by_repeat)

    def ratios(self, base: "Summary") -> list[float]:
        """How many times as long as `base` this takes in each repeat, a process against its neighbour.

        The machine's speed drifts by more than some systems differ, and within a repeat it drifts least.
        """
        shared = self.by_repeat.keys() & base.by_repeat.keys()
        return [self.by_repeat[repeat] / base.by_repeat[repeat] for repeat in shared]

    def times(self, base: "Summary") -> float:
        """The median of the ratios."""
        return statistics.median(self.ratios(base))

    @classmethod
    def of(cls, runs: Sequence[Record]) -> "Summary":
        shares = [
            statistics.median(f / s for f, s in zip(run["step_flops"][1:], run["step_seconds"], strict=True))
            / run["matrix_peak"]
            for run in runs
            if "step_flops" in run
        ]
        by_repeat = {run["repeat"]: statistics.mean(run["step_seconds"]) for run in runs}
        megabytes = statistics.median(run["peak_bytes"] for run in runs) / 1e6
        share = statistics.median(shares) if shares else None
        return cls(statistics.median(by_repeat.values()), by_repeat, megabytes, share)


def summaries(records: Sequence[Record]) -> dict[tuple[str, str], dict[str, Summary]]:
    """By (workload, reference), then by system, in the order of `COMPARISONS`."""
    found: dict[tuple[str, str], dict[str, Summary]] = {}
    for c in COMPARISONS:
        for reference, system in itertools.product(c.references, c.systems):
            what = (c.workload, reference, system)
            if runs := [r for r in records if (r["workload"], r["reference"], r["system"]) == what]:
                found.setdefault((c.workload, reference), {})[system] = Summary.of(runs)
    return found


def report(records: Sequence[Record]) -> str:
    """The tables, for a terminal."""
    lines = []
    for (workload, reference), own in summaries(records).items():
        lines += ["", f"{workload}, reference {reference}"]
        base = own.get("tiltlm") or next(iter(own.values()))
        lines.append(f"{'':20}{'s/step':>9}{'MB':>8}{'time (of repeats)':>22}{'memory':>8}{'of peak':>9}")
        for system, s in own.items():
            share, memory = f"{s.peak_share:.0%}" if s.peak_share else "", f"{s.megabytes / base.megabytes:.2f}"
            lines.append(
                f"{system:20}{s.seconds:9.3f}{s.megabytes:8,.0f}{spread(s.ratios(base)):>22}{memory:>8}{share:>9}"
            )
    return "\n".join(lines)


def spread(ratios: Sequence[float], digits: int = 2) -> str:
    """The median, with the least and the most of several."""
    ends = f" ({min(ratios):.{digits}f}–{max(ratios):.{digits}f})" if len(ratios) > 1 else ""
    return f"{statistics.median(ratios):.{digits}f}{ends}"


def processor() -> str:
    """The processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    sys.exit(main())
