"""How long a DPO step takes and how much memory it needs: tiltlm beside TRL's own trainer, on the same tokens.

    python benchmarks/dpo_step.py [--trl-python PYTHON] [--repeats 3] [--checkpointing off] [--json FILE]

Each measurement is a process of its own, systems take turns, and no speed is printed before both sides are seen to
compute the same thing: the same tokens, the loss log 2 at the first step, the same gradient norm there, the same loss
after the first update. A first step is warm-up and left out. This process only starts the others and needs no torch.
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
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DATA = HERE.parent.parent / "shared" / "data" / "hh-harmless.jsonl.gz"
REFERENCES = {"loop": "reference in the loop", "cached": "cached reference"}
TARGET_TIME, TARGET_MEMORY = 8, 3
"""With the reference in the loop, a step is to take at most 1/8 of TRL's time and 1/3 of its memory."""

Record = dict[str, Any]


def main() -> int:
    """Prepare, measure, check, print; 1 where the two sides do not compute the same thing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl-python", help="python of an environment with requirements-trl.txt; without it, no peer")
    parser.add_argument("--data", type=Path, default=DATA, help="HH transcripts, gzipped JSON Lines")
    parser.add_argument("--pairs", type=int, default=64, help="how many pairs, 8 a step")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each kind")
    parser.add_argument("--checkpointing", choices=("off", "on"), nargs="+", default=["off", "on"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write every measurement here")
    args = parser.parse_args()
    if args.pairs <= 8:
        parser.error(f"--pairs {args.pairs}: more than one step of 8 is needed, the first is warm-up")
    if not args.data.is_file():
        parser.error(f"{args.data}: no such file; name one with --data")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        options = ["--data", args.data, "--pairs", args.pairs, "--threads", args.threads]
        start([sys.executable, HERE / "workload.py", folder, *options], folder, args.threads)
        workload = json.loads((folder / "workload.json").read_text())
        records = measure(folder, args.trl_python, args.repeats, args.checkpointing, args.threads)
    differences = unequal(records)
    if args.json:
        args.json.write_text(json.dumps({"workload": workload, "runs": records, "unequal": differences}, indent=1))
    if differences:
        print("the systems do not compute the same thing:", *differences, sep="\n  ")
        return 1
    print(report(workload, records, args.repeats))
    return 0


def measure(
    folder: Path, trl_python: str | None, repeats: int, checkpointings: list[str], threads: int
) -> list[Record]:
    """Every system with every kind of reference and of checkpointing, in turns, `repeats` times over."""
    commands: dict[str, list[Any]] = {"tiltlm": [sys.executable, HERE / "tiltlm_dpo.py"]}
    if trl_python is None:
        print("no --trl-python: TRL is not measured, tiltlm stands alone", file=sys.stderr)
    else:
        commands["TRL"] = [trl_python, HERE / "peers" / "trl_dpo.py"]
    records: list[Record] = []
    turns = itertools.product(range(repeats), REFERENCES, checkpointings, commands)
    for repeat, reference, checkpointing, system in turns:
        about = {"system": system, "reference": reference, "checkpointing": checkpointing}
        about["load_average_before"] = os.getloadavg()[0]
        print(f"{repeat + 1}/{repeats}", *(f"{key}={value}" for key, value in about.items()), file=sys.stderr)
        output = folder / f"{len(records)}.json"
        options = ["--reference", reference, "--checkpointing", checkpointing]
        start([*commands[system], folder, output, *options], folder, threads)
        records.append({**about, **json.loads(output.read_text())})
    return records


def start(command: list[Any], folder: Path, threads: int) -> None:
    """Run a process to its end, offline, with so many threads; its output is shown only where it fails."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / "cache"),
    }
    done = subprocess.run([str(part) for part in command], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stderr[-4000:]}")


def unequal(records: list[Record]) -> list[str]:
    """In what the runs differ from the first of all, or from what the first step must give."""
    own = records[0]
    found = []
    for run in records:
        checks = {
            "tokens": run["tokens"] == own["tokens"],
            "number of steps": len(run["losses"]) == len(own["losses"]),
            "first loss, which must be log 2": abs(run["losses"][0] - math.log(2)) < 1e-5,
            "first gradient norm": math.isclose(run["grad_norms"][0], own["grad_norms"][0], rel_tol=1e-4),
            "loss after the first update": math.isclose(run["losses"][1], own["losses"][1], rel_tol=1e-4),
            "threads": run["threads"] == own["threads"],
            "torch": run["versions"]["torch"] == own["versions"]["torch"],
        }
        found += [f"{run['system']}, {REFERENCES[run['reference']]}: {name}" for name, ok in checks.items() if not ok]
    return found


def report(workload: dict[str, Any], records: list[Record], repeats: int) -> str:
    """What was measured, and the tables."""
    shape, versions = workload["shape"], {k: v for record in records for k, v in record["versions"].items()}
    lines = [
        f"Llama d={shape['hidden_size']}, {shape['num_hidden_layers']} layers, {shape['num_attention_heads']} heads, "
        f"MLP {shape['intermediate_size']}, vocabulary {shape['vocab_size']:,} "
        f"({workload['num_parameters'] / 1e6:.1f}M parameters), float32",
        f"{workload['num_pairs']} pairs, {workload['batch_size']} a step; "
        f"median over {len(records[0]['step_seconds'])} steps of {repeats} processes, first step left out",
        f"{processor()}, {workload['threads']} threads, load average {records[0]['load_average_before']:.1f} before",
        ", ".join(f"{name} {number}" for name, number in sorted(versions.items())),
        "equal in all processes: tokens, first loss (log 2), first gradient norm, loss after the first update",
    ]
    for reference, title in REFERENCES.items():
        lines += ["", f"{title:26}{'s/step':>8}{'fastest to slowest':>22}{'peak MB':>10}{'time':>8}{'memory':>8}"]
        for checkpointing in sorted({record["checkpointing"] for record in records}):
            own, peer = (select(records, reference, checkpointing, system) for system in ("tiltlm", "TRL"))
            lines += block(own, peer)
        lines.append(fraction(select(records, reference, min(r["checkpointing"] for r in records), "tiltlm")))
    return "\n".join(lines)


def select(records: list[Record], reference: str, checkpointing: str, system: str) -> list[Record]:
    """The runs of one kind."""
    wanted = (reference, checkpointing, system)
    return [run for run in records if (run["reference"], run["checkpointing"], run["system"]) == wanted]


def block(own: list[Record], peer: list[Record]) -> list[str]:
    """The lines of one setting: tiltlm, then TRL with how many times its time and memory, and the targets."""
    lines, base = [], summary(own)
    suffix = ", checkpointing" if own[0]["checkpointing"] == "on" else ""
    lines.append(row("tiltlm" + suffix, base, base))
    if peer:
        theirs = summary(peer)
        lines.append(row("TRL" + suffix, theirs, base))
        if own[0]["reference"] == "loop":
            time, memory = theirs["seconds"] / base["seconds"], theirs["megabytes"] / base["megabytes"]
            met = {True: "met", False: "missed"}
            lines.append(
                f"  target 1/{TARGET_TIME} of TRL's time {met[time >= TARGET_TIME]}, "
                f"1/{TARGET_MEMORY} of its memory {met[memory >= TARGET_MEMORY]}"
            )
    return lines


def summary(runs: list[Record]) -> dict[str, float]:
    """Median and range of the step's seconds over all runs, and the median peak of memory in MB."""
    seconds = [s for run in runs for s in run["step_seconds"]]
    return {
        "seconds": statistics.median(seconds),
        "fastest": min(seconds),
        "slowest": max(seconds),
        "megabytes": statistics.median(run["peak_bytes"] for run in runs) / 1e6,
    }


def row(name: str, shown: dict[str, float], base: dict[str, float]) -> str:
    """A line of the table; ratios are to `base`."""
    span = f"{shown['fastest']:.2f} to {shown['slowest']:.2f}"
    time, memory = shown["seconds"] / base["seconds"], shown["megabytes"] / base["megabytes"]
    return f"{name:26}{shown['seconds']:8.2f}{span:>22}{shown['megabytes']:10,.0f}{time:8.2f}{memory:8.2f}"


def fraction(runs: list[Record]) -> str:
    """How much of the machine's matrix-product peak, measured in the same process, the necessary work amounts to."""
    rates = [sum(run["step_flops"][1:]) / sum(run["step_seconds"]) for run in runs]
    share = statistics.median(rate / run["matrix_peak"] for rate, run in zip(rates, runs, strict=True))
    peak = statistics.median(run["matrix_peak"] for run in runs)
    return f"tiltlm does its necessary work at {share:.0%} of the matrix-product peak ({peak / 1e9:.0f} GFLOP/s)"


def processor() -> str:
    """The processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    sys.exit(main())
