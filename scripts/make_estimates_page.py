"""Write docs/estimates.md: memory and time of runs of 1 to 70 billion parameters on 1 to 64 GPUs, as counted.

    python scripts/make_estimates_page.py            # the page from the records
    python scripts/make_estimates_page.py --count    # first count what the records lack

The records are benchmarks/results/estimates.jsonl, and what was compared with real processes is
benchmarks/results/estimate_memory.jsonl (`benchmarks/estimate.py --json`).
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "benchmarks" / "results" / "estimates.jsonl"
COMPARED = ROOT / "benchmarks" / "results" / "estimate_memory.jsonl"
PAGE = ROOT / "docs" / "estimates.md"

LLAMA = {"vocab_size": 128_256, "num_key_value_heads": 8}
QWEN = {"vocab_size": 152_064, "num_key_value_heads": 8, "num_attention_heads": 40, "hidden_size": 5120}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "1B": ("llama", {**LLAMA, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
                     "num_attention_heads": 32, "tie_word_embeddings": True}),
    "3B": ("llama", {**LLAMA, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28,
                     "num_attention_heads": 24, "tie_word_embeddings": True}),
    "8B": ("llama", {**LLAMA, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
                     "num_attention_heads": 32}),
    "14B": ("qwen2", {**QWEN, "intermediate_size": 13_824, "num_hidden_layers": 48}),
    "32B": ("qwen2", {**QWEN, "intermediate_size": 27_648, "num_hidden_layers": 64}),
    "70B": ("llama", {**LLAMA, "hidden_size": 8192, "intermediate_size": 28_672, "num_hidden_layers": 80,
                      "num_attention_heads": 64}),
}  # fmt: skip
"""config.json of Llama 3.2 1B and 3B, Llama 3.1 8B and 70B, Qwen2.5 14B and 32B, as far as it decides shapes."""
COUNTS = (1, 2, 8, 16, 64)
DEVICE = "h100"
BATCH_SIZE = 64
PAIRS = 1000


def count(shape: str, devices: int, *, is_lora: bool) -> dict[str, Any]:
    """Return the record of a run: one DPO epoch over `PAIRS` pairs of typical lengths."""
    from tiltlm.costs.devices import GPUS
    from tiltlm.costs.estimate import Reads, Workload, costs_of
    from tiltlm.costs.lengths import TYPICAL, typical_examples
    from tiltlm.costs.skeleton import Blueprint, config_of
    from tiltlm.models.model_settings import LoraSettings, ModelSettings
    from tiltlm.training.training_settings import TrainingSettings

    model = ModelSettings(shape, gradient_checkpointing=True, lora=LoraSettings() if is_lora else None)
    training = TrainingSettings(batch_size=BATCH_SIZE, parallel="shard" if devices > 1 else "replicate")
    workload = Workload(
        Blueprint(config_of(*SHAPES[shape]), model, "bf16"),
        training,
        typical_examples(TYPICAL, PAIRS),
        "typical",
        "",
        0,
        Reads(),
        GPUS[DEVICE],
        devices,
        0,
    )
    costs = costs_of(workload)
    return {
        "shape": shape,
        "devices": devices,
        "lora": is_lora,
        "parameters": costs.parameters.total,
        "peak": costs.memory.peak,
        "fits": costs.fits,
        "seconds": costs.duration.run,
        "reference_seconds": costs.duration.reference,
        "step_seconds": costs.duration.step,
    }


def read(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file of records; none if there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def count_missing() -> None:
    """Append a record for every cell that has none."""
    known = {(r["shape"], r["devices"], r["lora"]) for r in read(RECORDS)}
    for devices in (8, 1, *COUNTS):
        for shape in SHAPES:
            for is_lora in (False, True):
                if (shape, devices, is_lora) not in known:
                    with RECORDS.open("a") as file:
                        file.write(json.dumps(count(shape, devices, is_lora=is_lora)) + "\n")
                    known.add((shape, devices, is_lora))


def cell(record: Mapping[str, Any] | None) -> str:
    """Return memory of each GPU and minutes of an epoch; memory that is not there is in brackets."""
    if record is None:
        return "–"
    memory = f"{record['peak'] / 1e9:.0f} GB"
    if not record["fits"]:
        return f"({memory})"
    return f"{memory}, {record['seconds'] / 60:.1f} min"


def table(records: list[dict[str, Any]], *, is_lora: bool) -> str:
    """Return the table of full training or of LoRA."""
    found = {(r["shape"], r["devices"]): r for r in records if r["lora"] == is_lora}
    titles = " | ".join(f"{n} GPU{'s' * (n > 1)}" for n in COUNTS)
    lines = [f"| model | {titles} |", "|---" * (len(COUNTS) + 1) + "|"]
    lines += [f"| {shape} | " + " | ".join(cell(found.get((shape, n))) for n in COUNTS) + " |" for shape in SHAPES]
    return "\n".join(lines)


def compared(rows: list[dict[str, Any]]) -> str:
    """Return the table of estimated and measured memory."""
    lines = ["| model | run | estimated | measured | difference | without the variable |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {r['case']} | {r['variant']} | {r['estimated'] / 1e6:,.0f} MB | {r['measured'] / 1e6:,.0f} MB | "
        f"{r['error']:+.0%} | {r['measured_without'] / 1e6:,.0f} MB |"
        for r in rows
    ]
    return "\n".join(lines)


def page() -> str:
    """Return the page."""
    records = read(RECORDS)
    return TEXT.format(
        full=table(records, is_lora=False), lora=table(records, is_lora=True), compared=compared(read(COMPARED))
    )


TEXT = """# Estimates

*Made by `scripts/make_estimates_page.py`; change it there.*

`tiltlm estimate` counts what a run needs before a model is loaded: memory by part and by phase, time, disk.

<!-- not run: needs a configuration, and a model of the hub -->
```
tiltlm estimate --model Qwen/Qwen2.5-7B-Instruct --gpus 8xH100 training.parallel=shard
tiltlm estimate --model Qwen/Qwen2.5-7B-Instruct --gpus 2xA100 --tokens 512,256,256 model.gradient_checkpointing=true
```

The configuration (a YAML file, too), its overrides and the checks are those of `tiltlm train`. Only config.json, the
tokenizer and the data are read. Each GPU has one process; `--gpus cpu` (the default) and `--gpus 2xcpu` mean processes
on this machine.
If the run does not fit, the command searches for the nearest settings that do (smaller packs, checkpointing,
sharding, LoRA, more GPUs), prints the first four with their costs, and ends with exit code 1. `--json` prints all
numbers, as `tiltlm.estimate(...).to_dict()` returns them.

## How it counts

- **Packs** are those that the trainer will cut: its own planner, on this data, for this batch size, `max_tokens` and
  number of processes. Of a long run 64 steps are cut. Without data, `--tokens` gives lengths; without these, 256, 192
  and 192 tokens are taken. The output says which.
- **Memory and operations** are counted, not computed by a formula: the product's own forward and backward run on
  tensors that have shapes and no memory, with adapters, checkpointing and sharding as in training, and every
  allocation and operation is noted. A deep model is counted at two depths and continued along the line through both.
- **On a CPU** the process keeps freed memory (`training/allocator.py`). A model of the C library's heap follows the
  allocations in order, and what lies between blocks is shown as `gaps`. It assumes the variable of
  [Memory on a CPU](memory.md#on-a-cpu); without it a process needs more. The size of the process without a model is
  that of the command's own process.
- **On a GPU** 1 GB is assumed for the context and work spaces of libraries. A GPU counts with its name's GB times
  10⁹; what the driver reports is a few per cent more, which stays as a reserve.
- **Time**: each operation takes as long as its products at a share of the peak, or as its bytes at a share of the
  memory bandwidth, whichever is longer. On GPUs the shares are assumptions (50 % and 80 %), printed with every time.
  On a CPU both are measured when the command starts. Communication is assumed to run beside computation.

Not counted: memory of sampling and saving, the time of loading and saving, and gaps between blocks on a GPU.
`model.layout=auto` is taken as `shared`. A model whose code asks for the numbers that it computes is refused, with the
reason.

## Compared with real processes

The whole resident memory of fresh processes at its peak (VmHWM), of complete runs of `tiltlm train` on a CPU, by
`python benchmarks/estimate.py`, once each, with the variable of [Memory on a CPU](memory.md#on-a-cpu) and without it.
The aim is 15 %. bf16 on this processor, which has no bf16 matrix units, misses it: oneDNN keeps compiled kernels
(`ONEDNN_PRIMITIVE_CACHE_CAPACITY=0` gives them up), which are not counted. `tests/e2e/test_estimate.py` holds 15 %
for a model of 14 million parameters in float32: full, checkpointing, LoRA, and two processes, replicated and sharded.

Without the variable a run needs more, and how much depends on how blocks happen to lie: most with LoRA, little where
weights and moments are most of the memory.

{compared}

## Full training, computed

**Computed, not measured**: no row was run. DPO on H100 (80 GB), `model.gradient_checkpointing=true`,
`training.parallel=shard` from two GPUs on, batch size 64, packs of up to 4,096 tokens, products in bf16, AdamW with
float32 weights. A cell has the memory of each GPU, and the time of the reference pass and one epoch over 1,000 pairs
of 256 + 192 + 192 tokens. Memory in brackets is more than there is. Beyond 8 GPUs a 400 Gb/s network is assumed.

{full}

## LoRA of rank 16, computed

As above, with `model.lora.r=16` on all linear layers and float32 base weights (`model.dtype=bfloat16` halves them).

{lora}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", action="store_true", help="count what the records lack")
    if parser.parse_args().count:
        count_missing()
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
