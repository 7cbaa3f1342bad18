"""Offline and online methods at an equal budget of judgements, and a flawed judge over-optimised, in the text world.

    python benchmarks/equal_budget.py                    measures what is missing, then writes docs/equal-budget.md

All methods start from one model, answer prompts of one kind and ask one gold judge. Each has two trials with a seed
of its own; the better one is run with three new seeds. A flawed judge is a reward model of 64 labels. Records are kept
in a JSON Lines file as they finish, so that an interrupted benchmark goes on; `equal_budget_page.py` makes tables and
pictures from it.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from equal_budget_page import write_page

import tiltlm
from tiltlm.diagnostics import level_counts, measure_attainment, measure_frontier
from tiltlm.evaluation import SampleSet, draw_samples
from tiltlm.evaluation.gold import Line
from tiltlm.models import ModelSettings, Policy, load_policy
from tiltlm.recipes.prepare import encoder_of
from tiltlm.recipes.quickstart import reply
from tiltlm.reference import ReferenceSettings, build_reference
from tiltlm.worlds import LEVELS, TextWorld

RESULTS = Path(__file__).resolve().parent / "results" / "equal_budget.jsonl"
SAMPLES, JUDGEMENTS = 128, 3072
"""Samples of a round, each with one judgement; judgements of a run."""
PROXY_JUDGEMENTS = 4096
SEEDS, TRIAL_SEED = (0, 1, 2), 9
NUM_PROMPTS, MEASURED = 8192, 48
"""Prompts of the world: the first ones are for measurement, the others for training, each in one round at most."""
MAX_NEW_TOKENS, POOL, DRAWS = 32, 768, 32
LABELS = 64
"""Comparisons that the flawed judge is trained on."""
MAX_TOKENS = 16_384

RATES = ({"learning_rate": 4e-4}, {"learning_rate": 1e-3})
EPOCHS = ({"learning_rate": 4e-4, "num_epochs": 1}, {"learning_rate": 4e-4, "num_epochs": 4})


@dataclass(frozen=True)
class Method:
    """A preset with the settings that it has here. Where there is a β, the optimum is π_ref·e^{10·r}/Z."""

    preset: str
    n: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    trials: Sequence[Mapping[str, Any]] = RATES
    is_offline: bool = False
    """True: one round of all samples, which the model before training draws."""


METHODS = {
    "offline_dpo": Method("online_dpo", 2, {"training.batch_size": 64}, EPOCHS, is_offline=True),
    "offline_dpo_once": Method("online_dpo", 2, {"training.batch_size": 64}, is_offline=True),
    "online_dpo": Method("online_dpo", 2),
    "rloo": Method("rloo", 4, {"objective.beta": 0.1}),
    "gvpo": Method("gvpo", 8, {"objective.eta": 10.0}),
    "grpo": Method("grpo", 8),
    "raft": Method("raft", 8),
}
PROXIED = "online_dpo"
"""The method that is trained by the flawed judge too."""


class Desk:
    """The world, the model before training, and what the measurements share."""

    def __init__(self, folder: Path) -> None:
        """Write the prompts, and load the model before training."""
        self.folder, self.world = folder, TextWorld(num_train=NUM_PROMPTS)
        self.model = str(self.world.model_path())
        texts = self.world.prompts("train")
        self.measured, self.train = texts[:MEASURED], write_rows(folder / "train.jsonl", texts[MEASURED:])
        self.policy = load_policy(ModelSettings(self.model))
        self.encoder = encoder_of(self.policy)

    def frontier(self) -> dict[str, Any]:
        """Return the counts of the reward levels before training, and the frontier."""
        counts = level_counts(self.rewards(self.draw(self.policy, POOL, 0)), LEVELS)
        found = measure_frontier(counts, LEVELS)
        lines = {"tilt": asdict(Line.of(found.tilt)), "best_of_n": asdict(Line.of(found.best_of_n))}
        return {"counts": counts.tolist(), "reward": float((counts @ np.array(LEVELS)).sum() / counts.sum()), **lines}

    def draw(self, policy: Policy, n: int, seed: int, *, scored: bool = False) -> SampleSet:
        """Return samples of a policy at the measured prompts; `scored`: with log-probabilities before training."""
        reference = None
        if scored:
            settings = ReferenceSettings("initial", cache=False)
            reference = build_reference(settings, self.policy, is_needed=True, max_tokens=MAX_TOKENS)
        prompts = [self.encoder.prompt_ids(text) for text in self.measured]
        return draw_samples(
            policy.module, prompts, n=n, max_new_tokens=MAX_NEW_TOKENS, seed=seed,
            end_token_ids=self.policy.end_token_ids, reference=reference, max_tokens=MAX_TOKENS,
        )  # fmt: skip

    def rewards(self, draws: SampleSet) -> list[list[float]]:
        """Return the gold rewards of samples at the measured prompts."""
        return [
            [self.world.reward(prompt, reply(self.encoder, sample)) for sample in own]
            for prompt, own in zip(self.measured, draws.samples, strict=True)
        ]

    def measure(self, model: Path, counts: Any, seed: int) -> dict[str, Any]:
        """Return gold reward, KL and share of the attainable gain of a trained policy, on prompts that none saw."""
        after = self.draw(load_policy(ModelSettings(str(model))), DRAWS, seed + 100, scored=True)
        assert after.ref_logps is not None
        kl = (after.logps - after.ref_logps).mean(1)
        return asdict(measure_attainment(np.mean(self.rewards(after), 1), kl, np.array(counts), LEVELS))

    def loop(self, name: str, trial: Mapping[str, Any], seed: int, judgements: int, **more: Any) -> dict[str, Any]:
        """Run a loop until its judgements are spent, and return its cards and the path of the model."""
        method, began = METHODS[name], time.monotonic()
        prompts = (judgements if method.is_offline else SAMPLES) // method.n
        given = {
            "loop.rounds": 1 if method.is_offline else judgements // SAMPLES,  # the warm-up is a share of them
            "loop.n": method.n,
            "loop.prompts_per_round": prompts,
            "loop.seed": seed,
            "loop.save_every": 1000,
            "stop.judgements": judgements,
            "sampling.max_new_tokens": MAX_NEW_TOKENS,
            "training.batch_size": prompts,
            "training.seed": seed,
            **method.settings,
            **{f"training.{key}": value for key, value in trial.items()},
        }
        found = tiltlm.loop(
            preset=method.preset, model=self.model, data=str(self.train), output=self.folder / "run", overwrite=True,
            progress=False, **{"judge": "gold", **given, **more},
        )  # fmt: skip
        cards = [self.numbers(card, found.path) for card in found.cards]
        return {"method": name, **trial, "seed": seed, "cards": cards, "seconds": time.monotonic() - began}

    def numbers(self, card: Any, path: Path) -> dict[str, Any]:
        """Return what is kept of a card. Gold scores are kept for each half of its prompts too."""
        found = {name: getattr(card, name) for name in ("round", "sampled_tokens", "judgements", "num_tokens")}
        found |= {name: asdict(getattr(card, name)) for name in ("kl", "reward")}
        verdicts = path / "rounds" / f"{card.round:04d}" / "held-out-verdicts.jsonl"
        if card.held_out is not None:
            scores = [np.mean(json.loads(line)["scores"]) for line in verdicts.read_text().splitlines()]
            found |= {"gold": asdict(card.held_out), "halves": [float(np.mean(scores[k::2])) for k in (0, 1)]}
        return found

    def flawed_judge(self, seed: int) -> Path:
        """Train a reward model on a few labels of the gold reward, and return its folder."""
        world = TextWorld(num_train=NUM_PROMPTS)
        texts = world.prompts("train")[-(seed + 1) * LABELS :][:LABELS]
        prompts = [self.encoder.prompt_ids(text) for text in texts]
        drawn = draw_samples(
            self.policy.module, prompts, n=2, max_new_tokens=MAX_NEW_TOKENS, seed=seed + 50,
            end_token_ids=self.policy.end_token_ids, reference=None, max_tokens=MAX_TOKENS,
        )  # fmt: skip
        rng, rows = np.random.default_rng([seed, 3]), []
        for text, own in zip(texts, drawn.samples, strict=True):
            replies = [reply(self.encoder, sample) for sample in own]
            (label,) = world.label(text, replies, rng)
            if replies[0] != replies[1]:
                rows.append({"prompt": text, "chosen": replies[label.chosen], "rejected": replies[label.rejected]})
        data, output = self.folder / "labels.jsonl", self.folder / f"judge-{seed}"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        tiltlm.train(
            model=self.model, data=str(data), objective="reward_model", output=output, overwrite=True, progress=False,
            **{"training.learning_rate": 3e-4, "training.num_epochs": 6, "training.batch_size": 8,
               "training.seed": seed, "data.eval_fraction": 0.0},
        )  # fmt: skip
        return output / "model"

    def best_of_n(self, judge: Path, seed: int) -> dict[str, Any]:
        """Return the best-of-n curve of a flawed judge, with the gold reward of its choices."""
        prompts = write_rows(self.folder / "measured.jsonl", self.measured)
        found = tiltlm.best_of_n(
            self.model, prompts=prompts, judge=f"reward_model:{judge}",
            gold="gold", n=64, max_new_tokens=MAX_NEW_TOKENS, seed=seed, output=self.folder / "best-of-n",
            overwrite=True, progress=False,
        ).pool.curve  # fmt: skip
        assert found.kl is not None
        assert found.gold is not None
        columns = {"kl": found.kl, "proxy": found.proxy, "gold": found.gold}
        return {"ns": list(found.ns), **{name: [one.estimate for one in own] for name, own in columns.items()}}


def write_rows(path: Path, prompts: Sequence[str]) -> Path:
    """Write prompts as JSON Lines."""
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    return path


class Records:
    """The records of the benchmark, by their keys; each is written when it is made."""

    def __init__(self, path: Path) -> None:
        """Read what is there."""
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.known: dict[str, dict[str, Any]] = {record["key"]: record for record in map(json.loads, lines)}

    def make(self, key: str, measure: Any) -> dict[str, Any]:
        """Return a record, measured now if it is missing."""
        if key not in self.known:
            began = time.monotonic()
            record = rounded({"key": key, "part": key.split("/")[0], **measure()})
            self.known[key] = record
            with self.path.open("a") as file:
                file.write(json.dumps(record) + "\n")
            print(f"{key}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        return self.known[key]


def rounded(value: Any) -> Any:
    """Return nested values with numbers of five digits: more are noise, and make the file larger."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(inner) for inner in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def run_all(desk: Desk, records: Records) -> None:
    """Measure everything that is missing."""
    counts = records.make("frontier", desk.frontier)["counts"]

    def trained(name: str, trial: Mapping[str, Any], seed: int, judgements: int = JUDGEMENTS) -> dict[str, Any]:
        found = desk.loop(name, trial, seed, judgements)
        return {**found, "measured": desk.measure(desk.folder / "run" / "model", counts, seed)}

    for name, method in METHODS.items():
        rewards = [
            records.make(f"trial/{name}/{k}", lambda t=trial, m=name: trained(m, t, TRIAL_SEED))
            for k, trial in enumerate(method.trials)
        ]
        best = method.trials[int(np.argmax([one["measured"]["policy"]["estimate"] for one in rewards]))]
        for seed, (part, size) in product(SEEDS, parts_of(name)):
            make = lambda m=name, b=best, s=seed, j=size: trained(m, b, s, j)  # noqa: E731
            records.make(f"{part}/{name}/{seed}/{size}", make)
        if name == PROXIED:
            for seed in SEEDS:
                proxied(desk, records, best, seed)


def parts_of(name: str) -> Iterator[tuple[str, int]]:
    """Yield the budgets of a method. An offline method has no rounds, so smaller budgets are runs of their own."""
    if METHODS[name].is_offline:
        yield from (("smaller", JUDGEMENTS // share) for share in (4, 2))
    yield "compare", JUDGEMENTS


def proxied(desk: Desk, records: Records, trial: Mapping[str, Any], seed: int) -> None:
    """Train by a flawed judge, and take the best of n by it, with the gold judge held out."""
    key = f"proxy/{PROXIED}/{seed}"
    if {key, f"chosen/{seed}"} <= records.known.keys():
        return
    judge = desk.flawed_judge(seed)
    records.make(f"chosen/{seed}", lambda: {"seed": seed, **desk.best_of_n(judge, seed)})
    more = {"judge": f"reward_model:{judge}", "held_out_judge": "gold", "unaudited": True}
    records.make(key, lambda: desk.loop(PROXIED, trial, seed, PROXY_JUDGEMENTS, **more))


def main() -> None:
    """Measure what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"TILTLM_STORE": f"{folder}/store", "TILTLM_CACHE": f"{folder}/cache"}
        run_all(Desk(Path(folder)), Records(args.results))
    write_page(args.results)


if __name__ == "__main__":
    main()
