"""One CUDA card: first that every route is right there, then how fast everything is. Some eight minutes on an H200.

    python benchmarks/gpu/run.py [--output FILE]
    python benchmarks/gpu/run.py --tiny         # all of it in tiny, on any device, to try the script out

Stops with exit code 1, before any time is measured, where a route differs from separate float64 forwards on the CPU.
A section that fails, for want of memory say, is recorded with its reason, and the next one runs.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from correct import FAMILIES, check
from timing import Machine, attention_record, head_record, matrix_peak, sampling_record, step_record

VOCABULARY = 151_936


def about(device: str) -> dict[str, Any]:
    """What is measured on."""
    found = {name: version(name) for name in ("tiltlm", "torch", "transformers")}
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    return {"device": name, "threads": torch.get_num_threads(), **found}


def sections(machine: Machine, tiny: bool, peak: float) -> list[tuple[str, Callable[[], dict[str, Any]]]]:
    """Every measurement, the most wanted first."""
    if tiny:
        return [
            ("step", lambda: step_record(machine, "tiny", "tiny", 4, 256, peak, compiled=True)),
            ("attention", lambda: attention_record(machine, "tiny", 4, 4, 2, 16)),
            ("head", lambda: head_record(machine, 64, 64, 256, [16, 32])),
            ("sampling", lambda: sampling_record(machine, "tiny", 256, 2, 4)),
        ]
    steps = [("0.6B", "hh"), ("8B", "hh"), ("1.7B", "hh"), ("0.6B", "tldr"), ("0.6B", "ultrafeedback"), ("8B", "tldr")]
    return [
        *(
            ("step", lambda s=shape, p=profile: step_record(machine, s, p, 32, VOCABULARY, peak, compiled=p == "hh"))  # type: ignore[misc]
            for shape, profile in steps
        ),
        *(
            ("attention", lambda p=profile: attention_record(machine, p, 32, 16, 8, 128))  # type: ignore[misc]
            for profile in ("hh", "tldr", "ultrafeedback")
        ),
        ("head", lambda: head_record(machine, 3776, 1024, VOCABULARY, [128, 256, 512, 1024, 2048, 4096])),
        ("sampling", lambda: sampling_record(machine, "0.6B", VOCABULARY, 8, 128)),
    ]


def main() -> None:
    """Check, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON file for all records")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes and few repeats, on whatever device there is")
    parser.add_argument("--minutes", type=float, default=8.0, help="no section starts after so many")
    args = parser.parse_args()
    began = time.monotonic()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not args.tiny:
        parser.error("no CUDA device is here; --tiny tries the script out on a CPU")
    machine = Machine(device, repeats=1 if args.tiny else 5)
    results: dict[str, Any] = {"about": about(device), "correct": [], "records": []}
    print(json.dumps(results["about"]), flush=True)

    def keep(name: str, record: dict[str, Any]) -> None:
        results["records"].append({"section": name, **record})
        print(json.dumps(results["records"][-1]), flush=True)
        if args.output is not None:
            args.output.write_text(json.dumps(results, indent=1))

    for family in list(FAMILIES)[: 1 if args.tiny else None]:
        results["correct"] += check(family, device)
    for record in results["correct"]:
        print(json.dumps(record), flush=True)
    if not all(record["right"] for record in results["correct"]):
        sys.exit("a route is wrong on this device, see above; nothing is timed")
    peak = matrix_peak(machine, 256 if args.tiny else 8192)
    keep("peak", {"tflops": peak / 1e12, "seconds so far": time.monotonic() - began})
    for name, section in sections(machine, args.tiny, peak):
        if time.monotonic() - began > 60 * args.minutes:
            keep(name, {"left out": f"after {args.minutes:g} minutes"})
            continue
        start = time.monotonic()
        try:
            record = section()
        except Exception as failure:  # one section's failure is its result
            record = {"failed": f"{type(failure).__name__}: {(str(failure) or '?').splitlines()[0]}"}
        keep(name, record | {"section seconds": time.monotonic() - start})
        machine.clear()


if __name__ == "__main__":
    main()
