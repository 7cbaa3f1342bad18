"""The same DPO steps by a plain loop over a padded batch, as tutorials write it; needs torch and transformers alone.

Prompt and response are one row, all rows of the step one right-padded batch with an attention mask, float32 logits of
every position, a log-softmax over them, and the sum over response tokens. The reference runs at every step, or once
before the first.
"""

import argparse
import copy
import hashlib
import itertools
import json
import math
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from peak import matrix_peak


def encode(pairs: list[dict[str, str]], tokenizer: Any) -> list[list[list[int]]]:
    """Prompt, chosen and rejected of each pair as token ids; responses end with the end token."""

    def follow(prompt: str, response: str) -> list[int]:
        ids: list[int] = tokenizer(prompt + response, add_special_tokens=False).input_ids
        return [*ids[len(tokenizer(prompt, add_special_tokens=False).input_ids) :], tokenizer.eos_token_id]

    return [
        [
            tokenizer(pair["prompt"], add_special_tokens=False).input_ids,
            follow(pair["prompt"], pair["chosen"]),
            follow(pair["prompt"], pair["rejected"]),
        ]
        for pair in pairs
    ]


def collate(pairs: list[list[list[int]]]) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, attention mask and response mask: all chosen rows, then all rejected ones."""
    rows = [(prompt, pair[side]) for side in (1, 2) for pair in pairs for prompt in pair[:1]]
    width = max(len(p) + len(r) for p, r in rows)
    ids, real, counted = (torch.zeros(len(rows), width, dtype=torch.long) for _ in range(3))
    for row, (prompt, response) in enumerate(rows):
        end = len(prompt) + len(response)
        ids[row, :end] = torch.tensor(prompt + response)
        real[row, :end] = 1
        counted[row, len(prompt) : end] = 1
    return ids, real, counted


def sums(model: Any, ids: Tensor, real: Tensor, counted: Tensor) -> Tensor:
    """Log-probability of each row's response."""
    logits = model(input_ids=ids, attention_mask=real, use_cache=False).logits[:, :-1].float()
    logps = logits.log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
    return (logps * counted[:, 1:]).sum(1)


def main() -> None:
    """Train one pass over the workload and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload", type=Path)
    parser.add_argument("record", type=Path)
    parser.add_argument("--reference", choices=("loop", "cached"), required=True)
    args = parser.parse_args()
    workload = json.loads((args.workload / "workload.json").read_text())
    torch.set_num_threads(workload["threads"])
    narrow = workload["precision"] == "bf16"
    model = AutoModelForCausalLM.from_pretrained(args.workload / "model", dtype=torch.float32)
    reference = copy.deepcopy(model)
    tokenizer = AutoTokenizer.from_pretrained(args.workload / "model")
    lines = (args.workload / "pairs.jsonl").read_text().splitlines()
    pairs = encode([json.loads(line) for line in lines], tokenizer)
    a_step = workload["pairs_a_step"]
    steps = [pairs[i : i + a_step] for i in range(0, len(pairs), a_step)]
    batches = [collate(step) for step in steps]

    def reference_sums(batch: tuple[Tensor, ...]) -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            return sums(reference, *batch)

    known = [reference_sums(batch) for batch in batches] if args.reference == "cached" else []
    if known:
        del reference
    optimizer = torch.optim.AdamW(model.parameters(), lr=workload["learning_rate"], weight_decay=0.0)
    ends, losses, norms = [], [], []
    for step, batch in enumerate(batches):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            ratios = sums(model, *batch) - (known[step] if known else reference_sums(batch))
        chosen, rejected = ratios.chunk(2)
        loss = -logsigmoid(workload["beta"] * (chosen - rejected)).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
        optimizer.step()
        losses.append(loss.item())
        assert math.isfinite(losses[-1])
        ends.append(time.perf_counter())
    record = {
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "threads": torch.get_num_threads(),
        "step_seconds": [end - start for start, end in itertools.pairwise(ends)],
        "losses": losses,
        "grad_norms": norms,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "tokens": [hashlib.sha256(json.dumps(sorted(step)).encode()).hexdigest() for step in steps],
        "matrix_peak": matrix_peak(torch.bfloat16 if narrow else torch.float32),
    }
    args.record.write_text(json.dumps(record))


if __name__ == "__main__":
    main()
