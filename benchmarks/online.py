"""How long a step of an online method takes, and how much memory: `tiltlm loop` beside TRL's trainers.

    python benchmarks/online.py [--trl-python PYTHON] [--workloads nano-grpo ...] [--repeats 3]

A step draws 8 samples of 64 tokens for each of 8 prompts (2 samples for online DPO), scores them by the length of their
text, and trains once. Both sides have the same model with random weights, which ends one sample in a hundred early, the
same prompts and the same reward. Every measurement is a process of its own, and systems take turns. The first step of a
process is for warming up. Records go to results/online.jsonl; the table is printed.
"""

import argparse
import gzip
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DATA = HERE.parent.parent / "shared" / "data" / "hh-harmless.jsonl.gz"
RESULTS = HERE / "results" / "online.jsonl"
SYSTEMS = ("tiltlm", "TRL default", "TRL best")
WORKLOADS: dict[str, dict[str, Any]] = {
    f"{shape}-{method}{'-kl' if beta else ''}": {
        "shape": shape, "method": method, "beta": beta, "num_samples": 2 if method == "online_dpo" else 8,
    }
    for shape in ("nano", "micro")
    for method, betas in (("grpo", (0.0, 0.04)), ("rloo", (0.05,)), ("online_dpo", (None,)))
    for beta in betas
}  # fmt: skip


def prepare(folder: Path, name: str, num_steps: int) -> None:
    """Write model, prompts and description of a workload."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from workload import SHAPES, subword_tokenizer, usable_pairs, write_lines

    chosen = WORKLOADS[name]
    with gzip.open(DATA, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    tokenizer = subword_tokenizer([row[side] for row in rows for side in ("chosen", "rejected")], 8192)
    prompts = list(dict.fromkeys(pair["prompt"][-400:] for pair in usable_pairs(rows, 300)))[: 8 * num_steps]
    torch.manual_seed(0)
    shape = SHAPES[chosen["shape"]]
    config = LlamaConfig(
        vocab_size=8192, num_key_value_heads=shape["num_attention_heads"], **shape, max_position_embeddings=2048,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    write_lines(folder / "prompts.jsonl", [{"prompt": text} for text in prompts])
    description = {**chosen, "num_prompts": 8, "num_tokens": 64, "num_steps": num_steps, "threads": 2}
    (folder / "workload.json").write_text(json.dumps(description))


def measure(folder: Path, system: str, trl_python: str | None) -> dict[str, Any]:
    """Run one process and return its record."""
    record = folder / "record.json"
    if system == "tiltlm":
        command = [sys.executable, str(HERE / "online_tiltlm.py"), str(folder), str(record)]
    else:
        setting = system.split()[1]
        assert trl_python is not None
        command = [trl_python, str(HERE / "peers" / "trl_online.py"), str(folder), str(record), "--setting", setting]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{system} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(record.read_text())
    record.unlink()
    return found


def per_step(record: dict[str, Any], part: str) -> float:
    """Return the median seconds of a step after the first."""
    return statistics.median(record[f"{part}_seconds"][1:])


def table(records: list[dict[str, Any]]) -> str:
    """Return the table: seconds of tiltlm, and the other sides' time and memory as multiples of it."""
    lines = [
        "| workload | tiltlm: step, sampling, training (s) | TRL default, times as much; memory | TRL best |",
        "|---|---|---|---|",
    ]
    for name in WORKLOADS:
        own = [one for one in records if one["workload"] == name]
        if not own:
            continue
        by_system = {system: [one for one in own if one["system"] == system] for system in SYSTEMS}
        parts = ("step", "sample", "train")
        base = [statistics.median(per_step(one, part) for one in by_system["tiltlm"]) for part in parts]
        cells = [", ".join(f"{value:.2f}" for value in base)]
        for system in SYSTEMS[1:]:
            ratios = []
            pairs = list(zip(by_system["tiltlm"], by_system[system], strict=False))
            for part in parts:
                found = sorted(per_step(other, part) / per_step(mine, part) for mine, other in pairs)
                if found:
                    ratios.append(f"{statistics.median(found):.1f}× ({found[0]:.1f} to {found[-1]:.1f})")
            memory = [other["peak_bytes"] / mine["peak_bytes"] for mine, other in pairs]
            cells.append(", ".join([*ratios, f"{statistics.median(memory):.1f}×"]) if pairs else "–")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl-python", help="python of an environment with requirements-trl.txt; without it, no TRL")
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--repeats", type=int, default=3, help="processes of each kind")
    parser.add_argument("--steps", type=int, default=4, help="of a process; the first is for warming up")
    parser.add_argument("--results", type=Path, default=RESULTS, help="records are read from here and added")
    args = parser.parse_args()
    lines = args.results.read_text().splitlines() if args.results.exists() else []
    records = [json.loads(line) for line in lines]
    systems = SYSTEMS if args.trl_python else SYSTEMS[:1]
    for name in args.workloads:
        with tempfile.TemporaryDirectory() as folder:
            prepare(Path(folder), name, args.steps)
            for repeat in range(args.repeats):
                for system in systems:
                    key = {"workload": name, "system": system, "repeat": repeat}
                    if any(key.items() <= one.items() for one in records):
                        continue
                    records.append({**key, **measure(Path(folder), system, args.trl_python)})
                    with args.results.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(records[-1]) + "\n")
    print(table(records))


if __name__ == "__main__":
    main()
