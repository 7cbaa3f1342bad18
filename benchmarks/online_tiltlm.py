"""Some steps of an online method by `tiltlm loop`; writes how long each took, and the peak of memory.

A step is a whole round: draw, judge by the length of the text, make examples, measure the KL to the first policy, train
once, and write the files of the round.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import tiltlm
from tiltlm.recipes.online.loop import Rounds
from tiltlm.recipes.online.round_training import RoundTraining

SPENT: dict[str, list[float]] = {"round": [], "sample": [], "train": []}


def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, which notes how long each call takes."""

    def watched(*args: Any, **keywords: Any) -> Any:
        started = time.perf_counter()
        result = function(*args, **keywords)
        SPENT[name].append(time.perf_counter() - started)
        return result

    return watched


def main() -> None:
    """Run the rounds and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload", type=Path)
    parser.add_argument("record", type=Path)
    args = parser.parse_args()
    workload = json.loads((args.workload / "workload.json").read_text())
    torch.set_num_threads(workload["threads"])
    Rounds.run_round = timed("round", Rounds.run_round)  # type: ignore[method-assign]
    Rounds.draw = timed("sample", Rounds.draw)  # type: ignore[method-assign]
    RoundTraining.train = timed("train", RoundTraining.train)  # type: ignore[method-assign]
    objective = {"name": workload["method"]} if workload["method"] != "online_dpo" else {"name": "dpo", "beta": 0.1}
    if workload["beta"] is not None:
        objective["beta"] = workload["beta"]
    settings = {
        "loop.rounds": workload["num_steps"],
        "loop.prompts_per_round": workload["num_prompts"],
        "loop.n": workload["num_samples"],
        "batch_size": workload["num_prompts"],
        "max_new_tokens": workload["num_tokens"],
        "learning_rate": 1e-5,
        "warmup_ratio": 0.0,
        "objective": objective,
        "loop.save_every": workload["num_steps"],
    }
    with tempfile.TemporaryDirectory() as folder:
        run = tiltlm.loop(
            preset=workload["method"],
            model=str(args.workload / "model"),
            data=str(args.workload / "prompts.jsonl"),
            judge="length",
            unaudited=True,
            output=Path(folder) / "run",
            progress=False,
            **settings,
        )
    assert min(card.num_tokens for card in run.cards) > 0.95 * workload["num_tokens"], "random weights seldom end"
    record = {
        "versions": {name: version(name) for name in ("torch", "transformers", "tiltlm")},
        "step_seconds": SPENT["round"],
        "sample_seconds": SPENT["sample"],
        "train_seconds": SPENT["train"],
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    args.record.write_text(json.dumps(record))


if __name__ == "__main__":
    main()
