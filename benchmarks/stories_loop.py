"""Loops on a small story model with the sentiment of a continuation as the reward: three presets, one page.

    python benchmarks/stories_loop.py MODEL                 measures, then writes docs/stories-loop.md
    python benchmarks/stories_loop.py --page                writes the page again from the kept numbers

The openings of stories are those of `controlled_sentiment.py`; the judge is VADER's lexicon, in [−1, 1].
"""

import argparse
import json
import os
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from controlled_sentiment import JUDGE, openings, write_rows

import tiltlm
from tiltlm.sampling.answers import read_answers

HERE = Path(__file__).resolve().parent
RESULTS, DOCS = HERE / "results" / "stories_loop.json", HERE.parent / "docs"
TOKENS, SAMPLES, ROUNDS, POOL, PROMPTS, SHOWN = 48, 128, 16, 128, 32, 3
PRESETS = {
    "online_dpo": {"loop.n": 2, "training.learning_rate": 2e-4},
    "grpo": {"loop.n": 8, "training.learning_rate": 2e-4},
    "raft": {"loop.n": 8, "training.learning_rate": 2e-4},
}
NUMBERS = ("round", "sampled_tokens", "judgements", "num_tokens", "cut", "distinct_2", "entropy")


def measure(model: str, folder: Path) -> dict[str, Any]:
    """Run the loops, and draw the frontier and a few continuations."""
    train, held_out = openings()
    data, others = write_rows(folder / "train.jsonl", train), write_rows(folder / "held-out.jsonl", held_out)
    began, found = time.monotonic(), {}
    for preset, settings in PRESETS.items():
        prompts = SAMPLES // settings["loop.n"]
        run = tiltlm.loop(
            preset=preset, model=model, data=str(data), judge=JUDGE, unaudited=True, output=folder / preset,
            progress=False,
            **{**settings, "loop.rounds": ROUNDS, "loop.prompts_per_round": int(prompts), "loop.save_every": ROUNDS,
               "training.batch_size": int(prompts), "sampling.max_new_tokens": TOKENS},
        )  # fmt: skip
        cards = [
            {name: getattr(card, name) for name in NUMBERS}
            | {name: asdict(getattr(card, name)) for name in ("kl", "reward")}
            for card in run.cards
        ]
        found[preset] = {
            **settings,
            "cards": cards,
            "samples": continuations(run.path / "model", others, folder / f"{preset}.jsonl"),
        }
        print(f"[{(time.monotonic() - began) / 60:4.1f} min] {run!r}", flush=True)
    plane = tiltlm.frontier(
        [folder / preset for preset in PRESETS], judge={"kind": "lexicon"}, prompts=others, pool=POOL, limit=PROMPTS,
        max_new_tokens=TOKENS, output=folder / "frontier", progress=False,
    ).plane  # fmt: skip
    assert plane.tilt is not None
    assert plane.best_of_n is not None
    assert plane.best_of_n.kl is not None
    known = np.isfinite(plane.tilt.reward)
    best = plane.best_of_n
    return {
        "loops": found,
        "before": continuations(Path(model), others, folder / "before.jsonl"),
        "tilt": {name: getattr(plane.tilt, name)[known].tolist() for name in ("kl", "reward", "low", "high")},
        "best_of_n": {
            "n": list(best.ns),
            "kl": [one.estimate for one in plane.best_of_n.kl],
            "reward": [one.estimate for one in best.proxy],
        },
        "minutes": (time.monotonic() - began) / 60,
    }


def continuations(model: Path, prompts: Path, path: Path) -> list[list[str]]:
    """Return openings and one continuation of a model to each, drawn with one seed."""
    tiltlm.sample(
        str(model), prompts=prompts, n=1, limit=SHOWN, output=path, progress=False,
        **{"sampling.max_new_tokens": TOKENS},
    )  # fmt: skip
    return [[str(row.prompt), row.answers[0].strip()] for row in read_answers(path)]


def table(study: dict[str, Any]) -> list[str]:
    """Return the table: the model before training, and the policy before the last round of each loop."""
    lines = ["| | reward | KL, nats | tokens | distinct-2 | entropy, nats a token | sampled tokens |"]
    lines.append("|---|---|---|---|---|---|---|")
    rows = {"before training": (study["loops"]["online_dpo"]["cards"][0], 0)}
    for name, loop in study["loops"].items():
        rows[f"`{name}`"] = loop["cards"][-1], sum(card["sampled_tokens"] for card in loop["cards"][:-1])
    for name, (card, spent) in rows.items():
        reward, kl = card["reward"], card["kl"]
        lines.append(
            f"| {name} | {reward['estimate']:.2f} ({reward['low']:.2f} to {reward['high']:.2f}) | "
            f"{max(kl['estimate'], 0):.2f} ({max(kl['low'], 0):.2f} to {max(kl['high'], 0):.2f}) | "
            f"{card['num_tokens']:.1f} | {card['distinct_2']:.2f} | {card['entropy']:.2f} | {spent:,} |"
        )
    return lines


def draw(study: dict[str, Any]) -> None:
    """Draw reward against KL, beside the frontier and best-of-n, and distinct-2 over the rounds."""
    mpl.rcParams["svg.hashsalt"] = "tiltlm"  # the same numbers give the same file
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    tilt, best = study["tilt"], study["best_of_n"]
    left.fill_between(tilt["kl"], tilt["low"], tilt["high"], color="black", alpha=0.12, linewidth=0)
    left.plot(tilt["kl"], tilt["reward"], color="black", linewidth=1.2, label="frontier, as far as it is known")
    left.plot(best["kl"], best["reward"], ".:", color="grey", linewidth=1, label="best of n")
    for name, loop in study["loops"].items():
        cards = loop["cards"]
        left.plot(
            [c["kl"]["estimate"] for c in cards], [c["reward"]["estimate"] for c in cards], "o-", markersize=3,
            linewidth=0.9, label=name,
        )  # fmt: skip
        right.plot([c["round"] for c in cards], [c["distinct_2"] for c in cards], linewidth=1.2, label=name)
    left.set_xlabel("KL to the model before training, nats per continuation")
    left.set_ylabel("sentiment")
    left.legend(fontsize=7, loc="lower right")
    right.set_xlabel("round")
    right.set_ylabel("distinct-2 of the samples of a prompt")
    figure.tight_layout()
    figure.savefig(DOCS / "figures" / "stories-loop.svg", metadata={"Date": None})
    plt.close(figure)


def write_page() -> None:
    """Write the page and its figure from the kept numbers."""
    study = json.loads(RESULTS.read_text())
    draw(study)
    lines = [*HEAD, f"It took {study['minutes']:.0f} minutes on a busy core.", "", *table(study), "", *FIGURE, *READING]
    lines += ["## Continuations", "", "As they are, the first one drawn for each opening:", ""]
    for k, (opening, before) in enumerate(study["before"]):
        lines += [f"> **{opening}**", ">", f"> before training: {plain(before)}"]
        for name, loop in study["loops"].items():
            lines += [">", f"> `{name}`: {plain(loop['samples'][k][1])}"]
        lines.append("")
    (DOCS / "stories-loop.md").write_text("\n".join(lines).rstrip("\n") + "\n", encoding="utf-8")


def plain(text: str) -> str:
    """Return a continuation in one line, without anything that Markdown reads."""
    return " ".join(text.split()).replace("*", "").replace("<", "&lt;")


HEAD = [
    "# Loops on stories",
    "",
    "A story model of 260 thousand parameters continues openings of stories, 48 tokens each. The reward is the",
    "sentiment of a continuation by VADER's lexicon, in [−1, 1], as in [controlled",
    "sentiment](controlled-sentiment.md), which trains on a fixed data set. Here three presets of the",
    "[loop](loop.md) train on fresh samples, with 128 samples and one step a round, 16 rounds, one seed and one",
    "learning rate each:",
    "",
    "```",
    "python benchmarks/stories_loop.py MODEL",
    "```",
    "",
]
FIGURE = ["![Reward against KL, and diversity by round](figures/stories-loop.svg)", ""]
READING = [
    "- **The reward is won by writing alike.** The continuations turn to happy words, and those of GRPO and RAFT",
    "  repeat them: their distinct-2 falls from 0.89 to 0.47 and 0.46. Nothing in these two presets bounds the KL;",
    "  `stop.kl` or `stop.distinct_2` would have ended them, at round 5 and a KL of 4 nats for example.",
    "- **Online DPO** has a reward of 0.92 for 8.5 nats, the two others 0.97 for 21 and 27.",
    "- **Best of 32 of the model before training** has 0.91 for 2.5 nats, without training: this model is far from the",
    "  frontier with every method, as it is on fixed data.",
    "- One seed and one learning rate: the three curves are not a ranking. Distinct-2 is that of the samples of a",
    "  prompt, two for online DPO and eight for the others, so it begins at 0.96 and 0.89. The judge that trains also",
    "  measures here; it is a rule, so the score is right by definition, but it is all that was asked for.",
    "",
]


def main() -> None:
    """Measure, unless only the page is asked for, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--page", action="store_true")
    args = parser.parse_args()
    if not args.page:
        if args.model is None:
            parser.error("name a model, or give --page")
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as folder:
            os.environ |= {"TILTLM_STORE": f"{folder}/store", "TILTLM_CACHE": f"{folder}/cache"}
            RESULTS.write_text(json.dumps(measure(args.model, Path(folder)), ensure_ascii=False) + "\n")
    write_page()


if __name__ == "__main__":
    main()
