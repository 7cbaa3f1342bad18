"""DPO steps by tiltlm's own training loop on a prepared workload; writes a record of times, losses and memory.

The loop is the one that `tiltlm train` runs: metrics are computed and written at every step. A step's time is from the
end of one step to the end of the next, so everything the loop does in between is in it.
"""

import argparse
import hashlib
import json
import resource
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from flops import step_flops
from peak import matrix_peak
from workload import load_rows, settings_of

from tiltlm.core import Example, build_trees
from tiltlm.models import ModelSettings, Policy, load_policy
from tiltlm.objectives import build
from tiltlm.reference import Reference, ReferenceSettings, build_reference
from tiltlm.runs.directory import RunDirectory
from tiltlm.training.loop import train_loop
from tiltlm.training.recorder import Listener
from tiltlm.training.timetable import Timetable


class Watch:
    """When each step ended, and the peak of resident memory after it."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.peak_bytes = 0

    def step(self, *_: int) -> None:
        self.ends.append(time.perf_counter())
        self.peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def make_reference(kind: str, policy: Policy, examples: tuple[Example, ...], store: Path, max_tokens: int) -> Reference:
    """`loop`: a frozen copy that runs at every step. `cached`: a store, filled before the first step."""
    settings = (
        ReferenceSettings("initial", cache=False) if kind == "loop" else ReferenceSettings("initial", store=str(store))
    )
    reference = build_reference(settings, policy, is_needed=True, max_tokens=max_tokens)
    reference.ensure(build_trees(examples)[0])
    return reference


def run(
    folder: Path, reference_kind: str, layout: Any, checkpointing: bool = False, watch: Watch | None = None
) -> dict[str, Any]:
    """Train one pass over the workload; its record."""
    workload = json.loads((folder / "workload.json").read_text())
    torch.set_num_threads(workload["threads"])
    model = ModelSettings(
        str(folder / "model"), precision=workload["precision"], layout=layout, gradient_checkpointing=checkpointing
    )
    policy = load_policy(model)
    data = load_rows(folder, policy.tokenizer)
    settings = settings_of(workload)
    watch = watch or Watch()
    with tempfile.TemporaryDirectory() as scratch, RunDirectory.open(Path(scratch) / "run") as directory:
        store = Path(scratch) / "store"
        reference = make_reference(reference_kind, policy, tuple(data.train), store, settings.max_tokens)
        result = train_loop(
            policy.module, data.train, (), build("dpo", beta=workload["beta"]), reference, settings, directory,
            data.fingerprint, listener=Listener(step=watch.step),
        )  # fmt: skip
    table = Timetable.of(data.train, data.fingerprint, settings)
    steps = [[data.train[i] for i in table.rows(step)] for step in range(table.num_steps)]
    return {
        "versions": {name: version(name) for name in ("tiltlm", "torch", "transformers")},
        "threads": torch.get_num_threads(),
        "step_seconds": [end - start for start, end in zip(watch.ends, watch.ends[1:], strict=False)],
        "losses": [record["loss"] for record in result.history],
        "grad_norms": [record["grad_norm"] for record in result.history],
        "peak_bytes": watch.peak_bytes,
        "tokens": [digest(step) for step in steps],
        "layout": policy.choice.layout,
        "step_flops": [step_flops(build_trees(s)[0], workload["shape"], reference_kind == "loop") for s in steps],
        "matrix_peak": matrix_peak(torch.bfloat16 if workload["precision"] == "bf16" else torch.float32),
    }


def digest(step: list[Example]) -> str:
    """Of the pairs of a step: prompt, chosen and rejected of every comparison, in any order."""
    pairs = [
        [example.prompt_ids.tolist(), *(example.responses[i].token_ids.tolist() for i in (c.chosen, c.rejected))]
        for example in step
        for c in example.comparisons
    ]
    return hashlib.sha256(json.dumps(sorted(pairs)).encode()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload", type=Path)
    parser.add_argument("record", type=Path)
    parser.add_argument("--reference", choices=("loop", "cached"), required=True)
    parser.add_argument("--layout", choices=("shared", "packed", "padded"), default="shared")
    parser.add_argument("--checkpointing", action="store_true", help="model.gradient_checkpointing, as TRL's default")
    args = parser.parse_args()
    args.record.write_text(json.dumps(run(args.workload, args.reference, args.layout, args.checkpointing)))


if __name__ == "__main__":
    main()
