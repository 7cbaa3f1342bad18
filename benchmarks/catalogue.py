"""Every method of the catalogue in the world whose reward is known: reward against KL, beside what was possible.

    python benchmarks/catalogue.py catalogue [--methods dpo ipo ...]     every method over a grid of its main knob
    python benchmarks/catalogue.py beta                                  β against KL and reward for DPO
    python benchmarks/catalogue.py comparisons                           how many comparisons DPO needs

Every run has the same prompts, the same responses of the reference, labels drawn from the same gold reward, and the
same number of optimiser steps; only the objective and the form of the label differ. Runs are kept in a JSON Lines file
as they finish, so that an interrupted benchmark goes on; tables and pictures are made from it.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tiltlm.core import Comparison, Example
from tiltlm.data import Encoder
from tiltlm.data.cache.fingerprints import fingerprint
from tiltlm.data.partners import assign_partners
from tiltlm.evaluation import SampleSet, compare_gold, draw_samples
from tiltlm.logprobs.selfcheck import Choice
from tiltlm.models import ModelSettings, load_policy
from tiltlm.objectives import CATALOG, Objective, build
from tiltlm.recipes.prepare import all_trees, encoder_of
from tiltlm.recipes.quickstart import compare_samples_of, reply
from tiltlm.reference import ReferenceSettings, build_reference
from tiltlm.runs import RunDirectory
from tiltlm.training import TrainingSettings, train_loop
from tiltlm.worlds import LEVELS, TextWorld

HERE = Path(__file__).resolve().parent
TRAINING = TrainingSettings(learning_rate=5e-4, num_epochs=6, batch_size=16)
REFERENCE_SAMPLES, POLICY_SAMPLES, MAX_NEW_TOKENS = 384, 64, 32
SUMS, MEANS = (0.1, 0.3, 1.0, 3.0), (2.0, 6.0, 20.0, 60.0)
"""β of rewards summed over a response, and of rewards per token: a reply has about 20 tokens."""
TARGETS = (0.03, 0.1, 0.3, 1.0)
"""τ or β of methods that regress onto ±1/(2τ) nats of the whole response."""

GRIDS: dict[str, tuple[str, Sequence[Any]]] = {
    **dict.fromkeys(CATALOG, ("beta", SUMS)),
    **dict.fromkeys(("ln_dpo", "simpo", "rainbowpo", "alphapo"), ("beta", MEANS)),
    **dict.fromkeys(("cal_dpo", "sppo"), ("beta", TARGETS)),
    "ipo": ("tau", TARGETS),
    "ipo_mean": ("tau", (0.6, 2.0, 6.0, 20.0)),
    "slic": ("delta", (0.3, 1.0, 3.0, 10.0)),
    "orpo": ("odds_weight", (0.1, 1.0, 10.0, 100.0)),
    "rebel": ("eta", (0.3, 1.0, 3.0, 10.0)),
    "dno": ("eta", SUMS),
    "sft": ("", (None,)),
    "reward_model": ("", ()),
}
"""The main knob of each method and its values, strong tilt first or last as it comes."""
FIXED: dict[str, dict[str, Any]] = {
    "alphapo": {"alpha": 0.25},
    "f_dpo": {"divergence": "jensen_shannon"},
    "nca": {"reward_temperature": 1.0},
    "info_nca": {"reward_temperature": 1.0},
    "exo": {"reward_temperature": 1.0},
    "dpop": {"positive_weight": 5.0},
}
"""Knobs beside the main one that are not left at their default."""


@dataclass(frozen=True)
class Run:
    """One training run: what is varied."""

    study: str
    method: str
    knobs: dict[str, Any]
    num_prompts: int = 128
    comparisons_per_prompt: int | None = None
    """None: all 28 comparisons of 8 responses."""
    seed: int = 0

    @property
    def key(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def runs_of(study: str, methods: Sequence[str]) -> list[Run]:
    """What a study is made of."""
    if study == "beta":
        betas = (0.03, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)
        return [Run(study, "dpo", {"beta": b}, seed=seed) for b in betas for seed in (0, 1)]
    if study == "comparisons":
        sizes = (16, 32, 64, 128, 256, 512, 1024)
        return [Run(study, "dpo", {"beta": 0.3}, n, 1, seed) for n in sizes for seed in (0, 1)]
    return [
        Run(study, name, {**FIXED.get(name, {}), **({knob: value} if knob else {})})
        for name in methods
        for knob, values in [GRIDS[name]]
        for value in values
    ]


class Desk:
    """The world, its reference, and what is the same in all runs: made once in a process."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.world = TextWorld()
        self.choice: Choice | None = None
        self.policy = self.load()
        self.choice = self.policy.choice
        self.encoder = encoder_of(self.policy)
        held_out = [self.encoder.prompt_ids(text) for text in self.world.prompts("heldout")]
        self.before = self.draw_samples(held_out, REFERENCE_SAMPLES, None)
        self.sampled: dict[tuple[int, int], list[Example]] = {}

    def load(self) -> Any:
        return load_policy(ModelSettings(str(self.world.model_path())), None, self.choice)

    def draw_samples(self, prompts: Sequence[Any], n: int, trained: Any) -> SampleSet:
        """Samples of the reference, or of a trained policy scored under both."""
        reference = None
        if trained is not None:
            settings = ReferenceSettings("initial", cache=False)
            reference = build_reference(settings, self.policy, is_needed=True, max_tokens=TRAINING.max_tokens)
        return draw_samples(
            (trained or self.policy).module,
            prompts,
            n=n,
            max_new_tokens=MAX_NEW_TOKENS,
            seed=0,
            end_token_ids=self.policy.end_token_ids,
            reference=reference,
            max_tokens=TRAINING.max_tokens,
        )

    def rewards(self, draws: SampleSet) -> list[list[float]]:
        """Gold rewards of samples."""
        prompts = [self.encoder.plain_text(ids) for ids in draws.prompts]
        return [
            [self.world.reward(prompt, reply(self.encoder, s)) for s in own]
            for prompt, own in zip(prompts, draws.samples, strict=True)
        ]

    def examples(self, run: Run, objective: Objective) -> list[Example]:
        """The run's data: the same responses for every method, with what it can learn from."""
        size = run.num_prompts, run.seed
        if size not in self.sampled:
            world = replace(self.world, num_train=run.num_prompts)
            found = compare_samples_of(world, self.policy, self.encoder, "train", run.seed, lambda *_, **__: None)
            self.sampled[size] = found
        rng = np.random.default_rng([run.seed, 7])
        made = [unpaired(e, self.gold(e, self.encoder), objective, run, rng) for e in self.sampled[size]]
        made = [e for e in made if e is not None]
        if objective.statistic is not None and objective.statistic.reads == "partners":
            made = assign_partners(made, self.encoder.window)
        return made

    def gold(self, example: Example, encoder: Encoder) -> list[float]:
        prompt = encoder.plain_text(example.prompt_ids)
        return [self.world.reward(prompt, encoder.plain_text(r.token_ids)) for r in example.responses]

    def measure(self, run: Run) -> dict[str, Any]:
        """Train and measure."""
        objective = build(run.method, **run.knobs)
        policy = self.load()
        examples = self.examples(run, objective)
        reference = build_reference(
            ReferenceSettings(), policy, is_needed=objective.needs_reference, max_tokens=TRAINING.max_tokens,
            live=bool(objective.extras),
        )  # fmt: skip
        reference.ensure(all_trees(examples))
        steps = TRAINING.num_epochs * -(-128 // TRAINING.batch_size)
        settings = replace(TRAINING, seed=run.seed, num_epochs=10**6 // len(examples), max_steps=steps)
        with tempfile.TemporaryDirectory() as scratch, RunDirectory.open(Path(scratch) / "run") as directory:
            train_loop(
                policy.module, examples, (), objective, reference if objective.needs_reference else None, settings,
                directory, fingerprint(examples, ()),
            )  # fmt: skip
        after = self.draw_samples(self.before.prompts, POLICY_SAMPLES, policy)
        gold = compare_gold(
            self.rewards(after), after.logps - after.ref_logps, self.rewards(self.before), LEVELS, seed=run.seed
        )
        attained = gold.attainment
        return {
            "run": asdict(run),
            "reward": asdict(attained.policy),
            "kl": asdict(attained.kl),
            "gain": asdict(attained.gain),
            "attainable": asdict(attained.attainable),
            "share": asdict(attained.share),
            "effective_samples": attained.effective_samples,
            "win_rate": asdict(gold.win_rate),
            "length": float(np.mean([[len(s.token_ids) for s in own] for own in after.samples])),
            "tilt": asdict(gold.tilt),
            "best_of_n": asdict(gold.best_of_n),
        }


def unpaired(
    example: Example, gold: Sequence[float], objective: Objective, run: Run, rng: np.random.Generator
) -> Example | None:
    """One prompt's responses with what the method learns from, always drawn from the gold reward.

    Pairs: Bradley–Terry comparisons. Lists: a ranking by Plackett–Luce, or the gold rewards themselves as scores.
    Thumbs: up with probability σ(r − mean). Methods that read score gaps of pairs see the gold rewards.
    """
    comparisons = example.comparisons
    if run.comparisons_per_prompt is not None:
        chosen = rng.permutation(len(comparisons))[: run.comparisons_per_prompt]
        comparisons = tuple(comparisons[i] for i in sorted(chosen))
    if "strict_scores" in objective.needs:
        both = [(c.chosen, c.rejected) for c in comparisons if gold[c.chosen] != gold[c.rejected]]
        comparisons = tuple(Comparison(a, b) if gold[a] > gold[b] else Comparison(b, a) for a, b in both)
        if not comparisons:
            return None
    worth = np.asarray(gold) + rng.gumbel(size=len(gold))
    return replace(
        example,
        comparisons=comparisons if objective.shape in ("pairs", "demonstrations") else (),
        scores=tuple(gold) if objective.needs & {"scores", "strict_scores"} else (),
        ranks=tuple(int(1 + (worth > w).sum()) for w in worth) if "ranks" in objective.needs else (),
        labels=tuple(bool(b) for b in rng.random(len(gold)) < 1 / (1 + np.exp(np.mean(gold) - np.asarray(gold))))
        if objective.shape == "unpaired"
        else (),
    )


desk: Desk | None = None


def work(run: Run) -> dict[str, Any]:
    """One run in a worker process."""
    global desk
    desk = desk or Desk()
    return desk.measure(run)


def main() -> int:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=("catalogue", "beta", "comparisons"))
    parser.add_argument("--methods", nargs="+", default=[m for m in CATALOG if GRIDS[m][1]], choices=list(CATALOG))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    args = parser.parse_args()
    args.results.mkdir(exist_ok=True)
    path = args.results / f"{args.study}.jsonl"
    known = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {Run(**record["run"]).key for record in known}
    missing = [run for run in runs_of(args.study, args.methods) if run.key not in done]
    with tempfile.TemporaryDirectory() as store, path.open("a") as file:
        os.environ["TILTLM_STORE"] = store
        with multiprocessing.get_context("spawn").Pool(args.workers) as pool:
            for i, record in enumerate(pool.imap_unordered(work, missing), 1):
                frontier = {
                    name: record.pop(name) for name in ("tilt", "best_of_n")
                }  # the reference's: always the same
                (args.results / "frontier.json").write_text(json.dumps(rounded(frontier)) + "\n")
                file.write(json.dumps(rounded(record)) + "\n")
                file.flush()
                print(f"{i}/{len(missing)} {summary(record)}", file=sys.stderr)
    return 0


def rounded(value: Any) -> Any:
    """Nested values with numbers of five digits: more are noise, and make the files larger."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [rounded(inner) for inner in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def summary(record: dict[str, Any]) -> str:
    """One line a run."""
    run = record["run"]
    return (
        f"{run['method']} {run['knobs']} n={run['num_prompts']} reward {record['reward']['estimate']:.2f} "
        f"KL {record['kl']['estimate']:.2f} share {record['share']['estimate']:.0%}"
    )


if __name__ == "__main__":
    sys.exit(main())
