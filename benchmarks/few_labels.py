"""D2PO and online DPO with the same number of labels of the judge, in the text world.

    python benchmarks/few_labels.py --output runs/few-labels

Each loop may ask for 160 labels: pairs of samples that the gold reward compares. D2PO spends them 16 a round on ten
rounds of 64 prompts. Online DPO labels all its pairs, so it has ten rounds of 16 prompts, or three of 64 (192 labels).
The last row may ask for as much as it likes. Objective and kind of labels are equal: DPO at β 0.05, hard labels. Every
loop runs at three learning rates with three seeds. The trained policies then answer held-out prompts, and the table has
the mean gold reward with an interval over seeds and prompts, and the KL of the last round.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import tiltlm
from tiltlm.diagnostics.repetitions import crossed_mean
from tiltlm.worlds import TextWorld

WORLD = TextWorld()
RATES = (2e-4, 4e-4, 8e-4)
SAME = {"max_new_tokens": 32, "max_rows": 1024, "objective.beta": 0.05, "examples.soft": False, "progress": False}
LEARNED = {"preset": "d2po", "loop.prompts_per_round": 64, "learned_judge.rate": 1e-3, "batch_size": 32}
SYSTEMS: Mapping[str, Mapping[str, Any]] = {
    "D2PO, closest pairs": {**LEARNED, "loop.rounds": 10},
    "D2PO, random pairs": {**LEARNED, "loop.rounds": 10, "learned_judge.choose": "random"},
    "online DPO, 16 prompts a round": {
        "preset": "online_dpo",
        "loop.prompts_per_round": 16,
        "loop.rounds": 10,
        "batch_size": 16,
    },
    "online DPO, 64 prompts a round": {
        "preset": "online_dpo",
        "loop.prompts_per_round": 64,
        "loop.rounds": 3,
        "batch_size": 32,
    },
    "online DPO, all labels": {
        "preset": "online_dpo",
        "loop.prompts_per_round": 64,
        "loop.rounds": 10,
        "batch_size": 32,
    },
}
"""Name → settings."""


def measure(out: Path, data: Path, name: str, rate: float, seed: int) -> dict[str, Any]:
    """Run a loop, and return its labels, its KL, and the mean gold reward of each held-out prompt."""
    kept = out / f"{name} {rate:g} {seed}.json".replace(" ", "-").replace(",", "")
    if kept.exists():
        found: dict[str, Any] = json.loads(kept.read_text())
        return found
    folder = kept.with_suffix("")
    own = {**SAME, **SYSTEMS[name], "learning_rate": rate, "loop.seed": seed}
    done = tiltlm.loop(
        model=WORLD.model_path(), data=str(data), judge="gold", output=folder, overwrite=(folder / "run.json").exists(),
        **own,
    )  # fmt: skip
    answers = tiltlm.sample(str(folder / "model"), WORLD.prompts("heldout"), n=8, max_new_tokens=32, progress=False)
    found = {
        "labels": sum(card.judgements for card in done.cards) // 2,
        "kl": done.cards[-1].kl.estimate if done.cards[-1].kl is not None else None,
        "rewards": [float(np.mean([WORLD.reward(row.prompt, text) for text in row.answers])) for row in answers.rows],
    }
    kept.write_text(json.dumps(found))
    return found


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/few-labels"))
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    out: Path = args.output
    out.mkdir(parents=True, exist_ok=True)
    data = out / "prompts.jsonl"
    data.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in WORLD.prompts("train")))
    print("| | labels | " + " | ".join(f"learning rate {rate:g}" for rate in RATES) + " |")
    print("|---|---|" + "---|" * len(RATES))
    for name in SYSTEMS:
        cells, labels = [], 0
        for rate in RATES:
            runs = [measure(out, data, name, rate, seed) for seed in range(args.seeds)]
            mean, _ = crossed_mean([run["rewards"] for run in runs])
            labels = runs[0]["labels"]
            kl = np.mean([run["kl"] for run in runs])
            cells.append(f"{mean.estimate:.2f} ({mean.low:.2f} to {mean.high:.2f}), {kl:.1f} nats")
        print(f"| {name} | {labels} | " + " | ".join(cells) + " |", flush=True)
    answers = tiltlm.sample(WORLD.model_path(), WORLD.prompts("heldout"), n=8, max_new_tokens=32, progress=False)
    before = [float(np.mean([WORLD.reward(row.prompt, text) for text in row.answers])) for row in answers.rows]
    mean, _ = crossed_mean([before])
    print(f"\nBefore training: {mean.estimate:.2f} ({mean.low:.2f} to {mean.high:.2f})")


if __name__ == "__main__":
    main()
