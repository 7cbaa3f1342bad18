"""Objectives composed in a configuration can be trained, are stored in the run, and can be swept over."""

import json
import re
from pathlib import Path

import pytest
import yaml

import tiltlm
from tiltlm.config.resolve import resolve
from tiltlm.objectives import WeightedSum
from tiltlm.recipes.run_settings import RunSettings

pytestmark = pytest.mark.usefixtures("blank_figures")
PAGE = Path(__file__).parents[2] / "docs" / "composing.md"
EXAMPLES = [yaml.safe_load(text)["objective"] for text in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)]


def test_the_page_has_examples_of_every_form():
    assert {next(key for key in ("name", "data", "sum") if key in spec) for spec in EXAMPLES} == {"name", "data", "sum"}


@pytest.mark.parametrize("index", range(len(EXAMPLES)))
def test_the_pages_examples_train_and_are_kept(index, train, data, tmp_path):
    run = train(tmp_path / "run", data=data, objective=EXAMPLES[index], max_steps=3, batch_size=8)
    steps = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert all(step["grad_norm"] > 0 for step in steps if "grad_norm" in step)
    kept = resolve(RunSettings, run.path / "config.yaml", output=tmp_path / "again")
    given = resolve(RunSettings, {"model": "m", "data": "d", "objective": EXAMPLES[index]}, output=tmp_path / "other")
    assert kept.build_objective() == given.build_objective()


def test_a_sum_is_the_weighted_sum_of_its_losses(data, model):
    parts = [{"name": "dpo", "beta": 0.3}, {"name": "cpo", "beta": 0.3}, {"name": "sft"}]
    weights = [0.7, 0.2, 1.5]
    score = lambda objective: tiltlm.score(  # noqa: E731
        model=model,
        data=data,
        objective=objective,
        **({} if objective["name"] in ("cpo", "sft") else {"reference": model}),
    )["loss"]
    alone = [score(part) for part in parts]
    terms = [{**part, "weight": weight} for part, weight in zip(parts, weights, strict=True)]
    together = tiltlm.score(model=model, data=data, objective={"sum": terms}, reference=model)["loss"]
    assert together == pytest.approx(sum(w * a for w, a in zip(weights, alone, strict=True)), rel=1e-6)


def test_a_sweep_reaches_into_a_sum(model, data, tmp_path):
    config = {"model": model, "data": str(data), "objective": EXAMPLES[-1]}
    grid = {"objective.sum.0.beta": [0.05, 0.5]}
    settings = {"max_steps": 2, "evaluation.num_prompts": 0, "output": tmp_path / "sweep"}
    found = tiltlm.sweep(config, grid, **settings)
    built = [
        resolve(RunSettings, folder / "config.yaml").build_objective()
        for folder in sorted(p.parent for p in found.path.rglob("config.yaml"))
    ]
    assert all(isinstance(objective, WeightedSum) for objective in built)
    assert sorted(objective.objectives[0].reward.beta for objective in built) == [0.05, 0.5]
