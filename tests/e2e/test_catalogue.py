"""Every method of the catalogue trains a few dozen steps in the text world, through the command line."""

import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tiltlm.cli.main import app
from tiltlm.core import DataError
from tiltlm.objectives import CATALOG, build, knobs
from tiltlm.worlds import TextWorld

pytestmark = pytest.mark.usefixtures("blank_figures")
REQUIRED = {"beta": 5.0, "alpha": 0.25}
"""Values of knobs that have no default."""
OVER = {"cal_dpo": {"beta": 0.1}, "sppo": {"beta": 0.1}}
"""With their published defaults these aim at hundreds of nats, too far for a few dozen steps."""
FROM_ZERO_DOWNWARDS = {"discopop"}
"""The slope of its loss at a margin of 0 is (1 − log 2)/(4τ) − ¾, above 0 at τ = 0.05: the margin first falls."""


def rows_for(shape: str, found: list[dict]) -> list[dict]:
    """Return two replies to each request, the kinder one better, in the shape that the method needs."""
    world = TextWorld()
    if shape == "unpaired":
        return [
            {"prompt": r["prompt"], "completion": r[side], "label": side == "chosen"}
            for r in found
            for side in ("chosen", "rejected")
        ]
    if shape == "lists":
        return [{"prompt": r["prompt"], "completions": [r["rejected"], r["chosen"]], "scores": [0, 1]} for r in found]
    if shape == "demonstrations":
        return [{"prompt": r["prompt"], "completion": r["chosen"]} for r in found]
    scored = [{f"score_{side}": world.reward(r["prompt"], r[side]) for side in ("chosen", "rejected")} for r in found]
    return [{**r, **s} for r, s in zip(found, scored, strict=True)]


def objective_of(name: str):
    """Return the method with its defaults, or with values at which a few dozen steps show something."""
    return build(name, **settings_of(name))


def settings_of(name: str) -> dict[str, float]:
    return {k.name: REQUIRED[k.name] for k in knobs(name) if k.is_required} | OVER.get(name, {})


ONLINE = [name for name in CATALOG if objective_of(name).shape == "rollouts"]


@pytest.mark.parametrize("name", ONLINE)
def test_a_policy_gradient_is_sent_to_the_loop(name: str, model: str, some_pairs: list[dict], tmp_path: Path):
    """Its samples are in no file; tests/e2e/test_loop.py trains with each of them."""
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in some_pairs))
    arguments = ["train", "--model", model, "--data", str(data), "--objective", name, "--output", str(tmp_path / "run")]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, DataError)
    assert result.exception.code == "needs_loop"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", [name for name in CATALOG if name not in ONLINE])
def test_trains_through_the_command_line(name: str, model: str, some_pairs: list[dict], tmp_path: Path):
    settings, objective = settings_of(name), objective_of(name)
    data, output = tmp_path / "data.jsonl", tmp_path / "run"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows_for(objective.shape, some_pairs)))
    arguments = [
        "train", "--model", model, "--data", str(data), "--objective", name, "--output", str(output),
        "learning_rate=3e-4", "batch_size=8", "num_epochs=5", "eval_fraction=0.2", "evaluation.num_prompts=0",
        "eval_every=1000", "save_every=1000",
        *(f"objective.{key}={value}" for key, value in settings.items()),
    ]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    steps = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    trained = [s for s in steps if "grad_norm" in s]
    assert len(trained) >= 24
    assert all(math.isfinite(s["loss"]) and s["grad_norm"] > 0 for s in trained)
    metric = "nll" if objective.shape == "demonstrations" else "rewards/margins"
    first, last = ([s[f"eval_{metric}"] for s in steps if f"eval_{metric}" in s][i] for i in (0, -1))
    if name in FROM_ZERO_DOWNWARDS:
        assert last != first
        return
    assert last < first if metric == "nll" else last > first, f"{metric} on held-out rows: {first} → {last}"
    assert (output / "report.html").is_file()
