"""The memory that `tiltlm estimate` counts, compared with what fresh processes need.

    python benchmarks/estimate.py [--cases nano micro 135M] [--smollm2 FOLDER] [--json FILE]

Each row is one run of `tiltlm train` in processes of its own. What is compared is the whole resident memory at its peak
(VmHWM of Linux, the largest process): interpreter, libraries, data, model, everything. The estimate is made in another
process, before the run, from the same settings. Each run is made twice: with `CACHES_OFF` in its environment, as
docs/memory.md advises and the estimate assumes, and without it. nano and micro are random Llamas (`workload.py`); 135M
is the folder that `../shared/models/make-smollm2` makes. bf16 products are forced with model.precision.
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from workload import WORKLOADS, prepare

HERE = Path(__file__).resolve().parent
CACHES_OFF = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0"}
"""The C library then keeps no small freed blocks apart, which lie between large ones."""
CHECKPOINTED = {"model.gradient_checkpointing": True}
LORA = {"model.lora": {"r": 16}}
BF16 = {"model.precision": "bf16"}
VARIANTS: dict[str, tuple[int, dict[str, Any]]] = {
    "full, float32": (1, {}),
    "full, float32, checkpointing": (1, CHECKPOINTED),
    "full, bf16": (1, BF16),
    "LoRA, float32": (1, LORA),
    "LoRA, float32, checkpointing": (1, LORA | CHECKPOINTED),
    "two processes, replicate": (2, {"training.parallel": "replicate"}),
    "two processes, shard": (2, {"training.parallel": "shard"}),
}
SIZES: dict[str, dict[str, Any]] = {
    "nano": {"training.max_tokens": 4096, "data.limit": 120},
    "micro": {"training.max_tokens": 2048, "data.limit": 40, "training.batch_size": 8},
    "135M": {"training.max_tokens": 1024, "data.limit": 16, "training.batch_size": 4},
}
COMMON: dict[str, Any] = {
    "objective": "dpo",
    "data.cache": False,
    "data.eval_fraction": 0.2,
    "training.max_steps": 3,
    "evaluation.num_prompts": 2,
    "evaluation.max_new_tokens": 16,
    "model.precision": "float32",
}


@dataclass(frozen=True)
class Row:
    """One comparison, in bytes."""

    case: str
    variant: str
    estimated: int
    measured: int
    """With `CACHES_OFF`."""
    measured_without: int

    @property
    def error(self) -> float:
        """The estimate's deviation, as a share of what was measured."""
        return self.estimated / self.measured - 1


def train_here(settings: dict[str, Any], peaks: Path) -> None:
    """Train in this process, and write the peak of its resident memory."""
    import tiltlm

    tiltlm.train(None, progress=False, **settings)
    (line,) = (row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM"))
    (peaks / os.environ.get("RANK", "0")).write_text(str(1024 * int(line.split()[1])))


def measure(settings: dict[str, Any], processes: int, folder: Path, variables: dict[str, str]) -> int:
    """Train in fresh processes with these variables in their environment; return the largest peak."""
    folder.mkdir()
    peaks, given = folder / "peaks", folder / "settings.json"
    peaks.mkdir()
    own = settings | {"output": str(folder / "run"), "reference.store": str(folder / "store")}
    given.write_text(json.dumps(own))
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [*start, str(Path(__file__).resolve()), "--train", str(given), str(peaks)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | variables)
    return max(int(path.read_text()) for path in peaks.iterdir())


def estimated(settings: dict[str, Any], processes: int) -> int:
    """Return the peak that the command counts, in a process of its own."""
    pairs = [f"{key}={json.dumps(value) if isinstance(value, dict) else value}" for key, value in settings.items()]
    command = [sys.executable, "-m", "tiltlm", "estimate", *pairs, "--gpus", f"{processes}xcpu", "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(json.loads(done.stdout)["memory"]["peak"])


def rows(cases: list[str], variants: list[str], data: Path, smollm2: Path | None, scratch: Path) -> Iterator[Row]:
    """Compare every variant of every case."""
    with gzip.open(data, "rt", encoding="utf-8") as file:
        (scratch / "pairs.jsonl").write_text("".join(islice(file, 300)))
    for case in cases:
        if case == "135M":
            if smollm2 is None:
                raise SystemExit("135M needs --smollm2 FOLDER, made by ../shared/models/make-smollm2")
            model = smollm2
        else:
            name = f"{case}-hh"
            assert name in WORKLOADS
            prepare(scratch / case, name, data, num_steps=1, threads=1)
            model = scratch / case / "model"
        for number, variant in enumerate(variants):
            processes, own = VARIANTS[variant]
            settings = {"model": str(model), "data": str(scratch / "pairs.jsonl"), **COMMON, **SIZES[case], **own}
            counted = estimated(settings, processes)
            measured = [
                measure(settings, processes, scratch / f"{case}-{number}-{len(variables)}", variables)
                for variables in (CACHES_OFF, {})
            ]
            yield Row(case, variant, counted, *measured)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared/data/hh-harmless.jsonl.gz")
    parser.add_argument("--smollm2", type=Path)
    parser.add_argument("--json", type=Path, help="append each row to this file")
    parser.add_argument("--train", nargs=2, type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.train:
        train_here(json.loads(given.train[0].read_text()), given.train[1])
        return
    print(f"{'model':6} {'settings':30} {'estimated':>10} {'measured':>10} {'error':>7} {'without':>10}")
    with tempfile.TemporaryDirectory() as scratch:
        for row in rows(given.cases, given.variants, given.data, given.smollm2, Path(scratch)):
            print(
                f"{row.case:6} {row.variant:30} {row.estimated / 1e6:7.0f} MB {row.measured / 1e6:7.0f} MB "
                f"{row.error:+7.1%} {row.measured_without / 1e6:7.0f} MB",
                flush=True,
            )
            if given.json:
                with given.json.open("a") as file:
                    file.write(json.dumps({**vars(row), "error": row.error}) + "\n")


if __name__ == "__main__":
    main()
