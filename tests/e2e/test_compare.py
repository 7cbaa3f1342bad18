"""Models compared from the command line: a model with itself, a run with its reference, resumed and again."""

import json

import pytest
from typer.testing import CliRunner

import tiltlm
from tiltlm.cli.main import app
from tiltlm.evaluation.answers.systems import prompt_key

pytestmark = pytest.mark.usefixtures("blank_figures", "own_cache")


def test_a_model_against_itself_is_a_tie_within_its_interval(model, prompts, tmp_path):
    found = tiltlm.compare(
        [model, model], prompts=prompts, judge="gold", n=4, max_new_tokens=32, output=tmp_path / "out"
    )
    (pair,) = found.comparison.pairs
    assert pair.outcome == "undecided"
    assert pair.win_rate.rate.low < 0.5 < pair.win_rate.rate.high
    assert pair.counts["identical"] < 0.2 * sum(pair.counts.values())  # the two have random numbers of their own


def test_a_run_from_the_command_line(trained, data, model, tmp_path):
    arguments = ["compare", str(trained.path), f"before={model}", "--prompts", str(data), "--judge", "gold"]
    arguments += ["--n", "2", "--max-new-tokens", "24", "--limit", "12", "--output", str(tmp_path / "out")]
    first = CliRunner().invoke(app, [*arguments, "--temperatures", "0,1"])
    assert first.exit_code == 0, first.output
    twin = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert [one["name"] for one in twin["systems"]] == ["dpo", "before"]
    assert [t for t, _ in twin["pairs"][0]["by_temperature"]] == [0.0, 1.0]
    rows = [json.loads(line) for line in data.read_text().splitlines()][:12]
    known = {prompt_key(row["prompt"]) for row in rows}
    assert set(twin["overlap"]) < known  # a quarter of the prompts was held out
    assert twin["systems"][0]["trained_on"] == len(twin["overlap"]) > 0
    assert twin["systems"][1]["trained_on"] is None
    again = CliRunner().invoke(app, [*arguments, "--temperatures", "0,1", "--resume"])
    assert again.exit_code == 0, again.output
    assert json.loads((tmp_path / "out" / "compare.json").read_text()) == twin


def test_a_plan_from_the_command_line():
    found = CliRunner().invoke(app, ["compare", "--plan", "--detect", "0.05"])
    assert found.exit_code == 0
    assert "783" in found.output


def test_a_judge_that_made_the_training_data_is_named(model, data, train, prompts, tmp_path):
    labelled = tmp_path / "labelled.jsonl"
    tiltlm.judge(data=str(data), judge="length", comparisons="all", output=labelled, unaudited=True, progress=False)
    run = train(tmp_path / "run", data=labelled, objective="dpo", max_steps=1, eval_fraction=0.25)
    given = {"prompts": prompts, "limit": 4, "max_new_tokens": 8, "progress": False}
    by_itself = tiltlm.compare([run.path, model], judge="length", output=tmp_path / "a", **given)
    assert by_itself.comparison.same_judge == ("run",)
    assert "also labelled the training data of run" in (tmp_path / "a" / "compare.html").read_text()
    by_another = tiltlm.compare([run.path, model], judge="gold", output=tmp_path / "b", **given)
    assert by_another.comparison.same_judge == ()
    plane = tiltlm.frontier(run.path, judge="length", pool=4, n=2, output=tmp_path / "c", **given).plane
    assert len(plane.same_judge) == 1
