"""The same DPO steps by TRL's own `DPOTrainer`, in TRL's own environment; writes a record as `tiltlm_dpo.py` does.

`default` is TRL as it comes: what is not named here is its default, gradient checkpointing included; only float32 is
asked for, since the default would be bf16. `best` is what someone who knows it would set: no checkpointing, the pairs
of a step sorted by length and cut into micro-batches of the size that is fastest here, so that little is padded.
Nothing is saved or reported, so that a step's time holds only a step.
"""

import argparse
import hashlib
import json
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from peak import matrix_peak


class Watch(TrainerCallback):
    """When each step ended, what it logged, and the peak of resident memory after the last one."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.logs: list[dict[str, float]] = []
        self.peak_bytes = 0

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())
        self.peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        if "loss" in logs:
            self.logs.append(logs)


def in_order(pairs: list[dict[str, str]], a_step: int, by_length: bool) -> list[dict[str, str]]:
    """The pairs as they come, or each step's sorted by length: the same steps, with neighbours of a size."""
    if not by_length:
        return pairs
    steps = [pairs[i : i + a_step] for i in range(0, len(pairs), a_step)]
    return [pair for step in steps for pair in sorted(step, key=lambda p: sum(map(len, p.values())))]


def main() -> None:
    """Train one pass over the workload and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload", type=Path)
    parser.add_argument("record", type=Path)
    parser.add_argument("--reference", choices=("loop", "cached"), required=True)
    parser.add_argument("--setting", choices=("default", "best"), required=True)
    parser.add_argument("--micro-batch", type=int, help="pairs of a micro-batch; without it, those of a step")
    parser.add_argument("--steps", type=int, help="only so many")
    args = parser.parse_args()
    workload = json.loads((args.workload / "workload.json").read_text())
    torch.set_num_threads(workload["threads"])
    a_step = workload["pairs_a_step"]
    pairs = [json.loads(line) for line in (args.workload / "pairs.jsonl").read_text().splitlines()]
    pairs = in_order(pairs[: (args.steps or workload["num_steps"]) * a_step], a_step, args.setting == "best")
    micro_batch = args.micro_batch or a_step
    watch = Watch()
    trainer = DPOTrainer(
        model=str(args.workload / "model"),
        args=DPOConfig(
            output_dir=str(args.record.with_suffix(".run")),
            bf16=workload["precision"] == "bf16",
            use_cpu=True,
            **({"gradient_checkpointing": False} if args.setting == "best" else {}),
            precompute_ref_log_probs=args.reference == "cached",
            per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=a_step // micro_batch,
            train_sampling_strategy="sequential",
            num_train_epochs=1,
            max_length=None,
            beta=workload["beta"],
            learning_rate=workload["learning_rate"],
            lr_scheduler_type="constant",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(pairs),
        callbacks=[watch],
    )
    rows = [[r["prompt_ids"], r["chosen_ids"], r["rejected_ids"]] for r in trainer.train_dataset]
    steps = [sorted(rows[i : i + a_step]) for i in range(0, len(rows), a_step)]
    trainer.train()
    record = {
        "versions": {name: version(name) for name in ("trl", "torch", "transformers", "accelerate")},
        "threads": torch.get_num_threads(),
        "step_seconds": [end - start for start, end in zip(watch.ends, watch.ends[1:], strict=False)],
        "losses": [log["loss"] for log in watch.logs],
        "grad_norms": [log["grad_norm"] for log in watch.logs],
        "peak_bytes": watch.peak_bytes,
        "tokens": [hashlib.sha256(json.dumps(step).encode()).hexdigest() for step in steps],
        "micro_batch": micro_batch,
        "checkpointing": trainer.args.gradient_checkpointing,
        "attention": trainer.model.config._attn_implementation,
        "optimizer": str(trainer.args.optim),
        "matrix_peak": matrix_peak(torch.bfloat16 if workload["precision"] == "bf16" else torch.float32),
    }
    args.record.write_text(json.dumps(record))


if __name__ == "__main__":
    main()
