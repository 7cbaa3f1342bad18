"""Controlled sentiment, the DPO paper's first experiment at a small size: reward against KL, with commands of tiltlm.

    python benchmarks/controlled_sentiment.py MODEL --output runs/sentiment

A small story model continues openings of stories. The reward is the sentiment of a continuation by VADER's lexicon, in
[−1, 1]. Comparisons of its own continuations are labelled by σ(difference of rewards / 0.2). DPO at five β, training on
the chosen continuations, and training on the best of 8 are measured on other openings, beside best-of-n and the
frontier.

Source: Rafailov et al. 2023 (arXiv:2305.18290), section 6.1.
"""

import argparse
import json
import time
from itertools import product
from pathlib import Path

import tiltlm

WHO = ("a little girl named Lily", "a boy named Tim", "a small cat", "a big dog", "an old man", "a young bird",
       "a brown bear", "a girl named Sue", "a fish", "a mouse named Max", "a king", "a baby duck", "a red fox",
       "a farmer", "a boy named Ben", "a little frog")  # fmt: skip
WHAT = ("went to the park", "found a box", "saw a tree", "wanted to play", "lost a toy", "met a friend",
        "heard a noise", "ate some food", "was in the rain", "looked at the sky", "walked home", "had a ball",
        "made a cake", "climbed a hill", "went to sleep", "opened the door", "read a book", "ran very fast",
        "fell down", "asked for help")  # fmt: skip
BETAS = (0.1, 0.3, 1.0, 3.0, 10.0)
JUDGE = {"kind": "lexicon", "scale": 0.2}
TOKENS = 48
TRAINING = {
    "training.learning_rate": 2e-4,
    "training.num_epochs": 2,
    "training.batch_size": 16,
    "evaluation.max_new_tokens": TOKENS,
}


def openings() -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Openings for training and for measuring: every fifth one measures."""
    texts = [{"prompt": f"One day, {who} {what}."} for who, what in product(WHO, WHAT)]
    return [row for i, row in enumerate(texts) if i % 5], texts[::5]


def main() -> None:
    """Make the data, train, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--output", type=Path, default=Path("runs/sentiment"))
    args = parser.parse_args()
    out: Path = args.output
    out.mkdir(parents=True, exist_ok=True)
    train, held_out = openings()
    held_out_file = write_rows(out / "held-out.jsonl", held_out)
    began = time.monotonic()

    def step(what: str) -> None:
        print(f"[{(time.monotonic() - began) / 60:4.1f} min] {what}", flush=True)

    step("continuations of the model")
    answers = out / "answers.jsonl"
    train_file = write_rows(out / "train.jsonl", train)
    tiltlm.sample(
        args.model, prompts=train_file, n=8, output=answers, overwrite=True, progress=False,
        **{"sampling.max_new_tokens": TOKENS},
    )  # fmt: skip
    step("comparisons")
    tiltlm.judge(
        data=answers, judge=JUDGE, comparisons="all", output=out / "pairs.jsonl", unaudited=True, overwrite=True,
        progress=False,
    )  # fmt: skip
    common = {"model": args.model, "overwrite": True, "progress": False, **TRAINING}
    step("DPO at five β")
    tiltlm.sweep(
        None, {"objective.beta": BETAS}, data=str(out / "pairs.jsonl"), objective="dpo", output=out / "dpo", **common
    )
    step("training on the chosen continuations")
    tiltlm.train(data=str(out / "pairs.jsonl"), objective="sft", output=out / "sft-chosen", **common)
    step("training on the best of 8")
    tiltlm.best_of_n(answers, judge=JUDGE, n=8, output=out / "best-of-8", overwrite=True, progress=False)
    tiltlm.train(data=str(out / "best-of-8" / "winners.jsonl"), objective="sft", output=out / "sft-best-of-8", **common)
    step("reward against KL")
    found = tiltlm.frontier(
        [out / "dpo", out / "sft-chosen", out / "sft-best-of-8"], judge=JUDGE, prompts=held_out_file, n=16, pool=512,
        max_new_tokens=TOKENS, output=out / "frontier", markdown=True, overwrite=True, progress=False,
    )  # fmt: skip
    print(found.summary())
    step("temperatures")
    best = sorted((out / "dpo").glob("02-*"))[0]
    compared = tiltlm.compare(
        [f"dpo={best}", f"sft={out / 'sft-best-of-8'}", f"start={args.model}"], prompts=held_out_file, judge=JUDGE, n=4,
        temperatures=[0, 0.25, 0.5, 0.75, 1], max_new_tokens=TOKENS, baseline="start", output=out / "temperatures",
        markdown=True, overwrite=True, progress=False,
    )  # fmt: skip
    print(compared.summary())
    step("done")


def write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    """Write rows as JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


if __name__ == "__main__":
    main()
