"""The same DPO steps by TRL's own `DPOTrainer`, in TRL's own environment; writes a record as `tiltlm_dpo.py` does.

What is not named here is TRL's default. float32 is asked for, since the default would be bf16; nothing is saved or
reported, so that a step's time holds only a step.
"""

import argparse
import hashlib
import json
import resource
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer


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


def main() -> None:
    """Train one pass over the workload and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload", type=Path)
    parser.add_argument("record", type=Path)
    parser.add_argument("--reference", choices=("loop", "cached"), required=True)
    parser.add_argument("--checkpointing", choices=("on", "off"), required=True)
    args = parser.parse_args()
    workload = json.loads((args.workload / "workload.json").read_text())
    torch.set_num_threads(workload["threads"])
    watch = Watch()
    trainer = DPOTrainer(
        model=str(args.workload / "model"),
        args=DPOConfig(
            output_dir=str(args.record.with_suffix(".run")),
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=args.checkpointing == "on",
            precompute_ref_log_probs=args.reference == "cached",
            per_device_train_batch_size=workload["batch_size"],
            train_sampling_strategy="sequential",
            num_train_epochs=1,
            max_length=workload["max_length"],
            beta=workload["beta"],
            learning_rate=workload["learning_rate"],
            lr_scheduler_type="constant",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=load_dataset("json", data_files=str(args.workload / "ordered.jsonl"), split="train"),
        callbacks=[watch],
    )
    rows = trainer.train_dataset
    tokens = [[r["prompt_ids"], r["chosen_ids"], r["rejected_ids"]] for r in rows]
    trainer.train()
    record = {
        "versions": {name: version(name) for name in ("trl", "torch", "transformers", "accelerate")},
        "threads": torch.get_num_threads(),
        "step_seconds": [end - start for start, end in zip(watch.ends, watch.ends[1:], strict=False)],
        "losses": [log["loss"] for log in watch.logs],
        "grad_norms": [log["grad_norm"] for log in watch.logs],
        "peak_bytes": watch.peak_bytes,
        "tokens": hashlib.sha256(json.dumps(tokens).encode()).hexdigest(),
        "attention": trainer.model.config._attn_implementation,
        "optimizer": str(trainer.args.optim),
    }
    args.record.write_text(json.dumps(record))


if __name__ == "__main__":
    main()
