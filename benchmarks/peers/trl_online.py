"""The same steps by TRL's own trainers, in TRL's own environment; writes a record as `online_tiltlm.py` does.

`default` is TRL as it comes: what is not named here is its default, gradient checkpointing and micro-batches of 8
completions included; only float32 is asked for. `best` has no checkpointing, and the whole step in one batch.
"""

import argparse
import json
import resource
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer


class Watch(TrainerCallback):
    """When each step began and ended."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.started = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.times.append(time.perf_counter() - self.started)


def lengths(completions: list[Any], **_: Any) -> list[float]:
    """The reward: characters of the text."""
    return [float(len(text)) for text in completions]


def main() -> None:
    """Run the steps and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload", type=Path)
    parser.add_argument("record", type=Path)
    parser.add_argument("--setting", choices=("default", "best"), required=True)
    args = parser.parse_args()
    workload = json.loads((args.workload / "workload.json").read_text())
    torch.set_num_threads(workload["threads"])
    method, prompts, samples = workload["method"], workload["num_prompts"], workload["num_samples"]
    is_best = args.setting == "best"
    rows = prompts * (1 if method == "online_dpo" else samples)  # a row of TRL is a completion, or a prompt for DPO
    micro = rows if is_best else min(8, rows)
    common: dict[str, Any] = {
        "output_dir": str(args.record.with_suffix(".run")),
        "bf16": False,
        "use_cpu": True,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": rows // micro,
        "max_steps": workload["num_steps"],
        "learning_rate": 1e-5,
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "temperature": 1.0,
        **({"gradient_checkpointing": False} if is_best else {}),
    }
    if workload["beta"] is not None:
        common["beta"] = workload["beta"]
    texts = [json.loads(line)["prompt"] for line in (args.workload / "prompts.jsonl").read_text().splitlines()]
    data, folder = Dataset.from_list([{"prompt": text} for text in texts]), str(args.workload / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    watch = Watch()
    if method == "online_dpo":
        trainer: Any = OnlineDPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
            ref_model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
            reward_funcs=lengths,
            args=OnlineDPOConfig(**common, max_new_tokens=workload["num_tokens"], max_length=2048),
            train_dataset=data,
            processing_class=tokenizer,
            callbacks=[watch],
        )
    else:
        kinds = {"grpo": (GRPOConfig, GRPOTrainer), "rloo": (RLOOConfig, RLOOTrainer)}
        config, kind = kinds[method]
        trainer = kind(
            model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
            reward_funcs=lengths,
            args=config(**common, num_generations=samples, max_completion_length=workload["num_tokens"]),
            train_dataset=data,
            processing_class=tokenizer,
            callbacks=[watch],
        )
    spent: list[float] = []
    names = [name for name in ("_generate", "_generate_single_turn") if hasattr(trainer, name)]
    original = getattr(trainer, names[0])

    def timed(*given: Any, **keywords: Any) -> Any:
        started = time.perf_counter()
        result = original(*given, **keywords)
        spent.append(time.perf_counter() - started)
        return result

    setattr(trainer, names[0], timed)
    trainer.train()
    calls = len(spent) // len(watch.times)
    sampled = [sum(spent[i * calls : (i + 1) * calls]) for i in range(len(watch.times))]
    record = {
        "versions": {name: version(name) for name in ("torch", "transformers", "trl")},
        "step_seconds": watch.times,
        "sample_seconds": sampled,
        "train_seconds": [whole - part for whole, part in zip(watch.times, sampled, strict=True)],
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    args.record.write_text(json.dumps(record))


if __name__ == "__main__":
    main()
