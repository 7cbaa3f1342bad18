"""Reward against KL from the command line and from Python: trained, resumed, finished runs, a search, refusals."""

import json

import pytest
from typer.testing import CliRunner

import tiltlm
from support.answered import Says
from support.errors import raises
from tiltlm.cli.main import app
from tiltlm.core import ConfigError

pytestmark = pytest.mark.usefixtures("blank_figures", "own_cache")

TRAINING = {
    "training.learning_rate": 1e-3,
    "training.num_epochs": 1,
    "training.batch_size": 8,
    "evaluation.num_prompts": 4,
    "evaluation.num_samples": 2,
    "evaluation.max_new_tokens": 24,
    "data.eval_fraction": 0.25,
}


@pytest.fixture(scope="module")
def study(model, data, tmp_path_factory):
    """Return the folder of a study of two β, with two checkpoints each, and its output."""
    folder = tmp_path_factory.mktemp("frontier") / "out"
    arguments = ["frontier", "--model", model, "--data", str(data), "--objective", "dpo", "objective.beta=0.1,30"]
    arguments += [f"{key}={value}" for key, value in TRAINING.items()] + ["training.save_every=3", "--judge", "gold"]
    arguments += ["--n", "8", "--pool", "64", "--limit", "12", "--checkpoints", "--output", str(folder), "--markdown"]
    found = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return folder, arguments, found.output


def twin(folder):
    return json.loads((folder / "frontier.json").read_text())


def test_two_knobs_with_their_checkpoints(study):
    folder, _, output = study
    found = twin(folder)
    assert [point["name"] for point in found["points"]] == ["beta=0.1", "beta=30"]
    near, far = sorted(found["points"], key=lambda point: -point["knobs"]["objective.beta"])
    assert near["kl"]["estimate"] < far["kl"]["estimate"]
    assert far["gain"]["low"] > 0
    assert found["num_prompts"] == 12
    for own in found["checkpoints"].values():
        assert [point["step"] for point in own] == [3, 6]
        assert own[0]["kl"]["low"] < own[1]["kl"]["high"]
    assert len(found["best_of_n"]["ns"]) == 7
    assert "has the highest reward" in output
    assert (folder / "frontier.md").read_text().startswith("### Reward against KL")


def test_the_last_checkpoint_is_the_trained_policy(study):
    """Its answers are other draws of the same policy, so both intervals hold the other's estimate."""
    found = twin(study[0])
    for point in found["points"]:
        last = found["checkpoints"][point["name"]][-1]
        for name in ("kl", "reward", "win_rate"):
            assert last[name]["low"] < point[name]["high"]
            assert point[name]["low"] < last[name]["high"]


def test_kl_agrees_with_the_reports_of_the_runs(study):
    """The report measures it on other prompts and samples; both are the KL of one policy."""
    folder = study[0]
    for point, run in zip(twin(folder)["points"], sorted((folder / "runs").iterdir()), strict=True):
        reported = json.loads((run / "report.json").read_text())["samples"]["after"]["kl"]
        assert point["kl"]["low"] < reported["high"]
        assert reported["low"] < point["kl"]["high"]


def test_resumed_and_from_finished_runs_it_is_the_same(study, tmp_path):
    folder, arguments, _ = study
    before = twin(folder)
    again = CliRunner().invoke(app, [*arguments, "--resume"], catch_exceptions=False)
    assert again.exit_code == 0
    assert twin(folder) == before
    found = tiltlm.frontier(
        folder / "runs", judge="gold", n=8, pool=64, limit=12, output=tmp_path / "again", progress=False
    )
    assert [point.knobs for point in found.plane.points] == [{"objective.beta": 0.1}, {"objective.beta": 30.0}]
    table = found.to_pandas()
    assert table["kl"].tolist() == pytest.approx([p["kl"]["estimate"] for p in before["points"]], rel=0.3)
    assert "highest reward" in repr(found)
    assert "<iframe" in found._repr_html_()


def test_a_search_for_a_kl_and_a_judge_that_compares(model, data, tmp_path):
    longer = Says(lambda a, b: 0.9 if len(a) > len(b) else 0.1 if len(a) < len(b) else 0.5)
    found = tiltlm.frontier(
        None, {"objective.beta": [1.0, 9.0]}, model=model, data=str(data), objective="dpo", judge=longer, kl=0.1, n=8,
        limit=12, output=tmp_path / "out", progress=False, **TRAINING,
    )  # fmt: skip
    assert found.search is not None
    assert found.search.num_trained + 2 == len(found.plane.points) == len(found.search.trials)
    assert found.plane.tilt is None
    assert all(point.reward is None for point in found.plane.points)
    gaps = {trial.value: abs(trial.kl.estimate - 0.1) for trial in found.search.trials}
    assert gaps[found.search.best.value] < min(gaps[1.0], gaps[9.0])


def test_refusals(model, data, study, tmp_path):
    given = {"model": model, "data": str(data), "objective": "dpo", "output": tmp_path / "out"}
    grid = {"objective.beta": [0.1, 1.0]}
    with raises(ConfigError, "missing_setting", key="judge"):
        tiltlm.frontier(None, grid, **given)
    with raises(ConfigError, "wrong_number", key="kl"):
        tiltlm.frontier(None, {**grid, "training.learning_rate": [1e-3, 1e-4]}, judge="gold", kl=1.0, **given)
    with raises(ConfigError, "not_positive", key="kl"):
        tiltlm.frontier(None, grid, judge="gold", kl=-1.0, **given)
    with raises(ConfigError, "out_of_range", key="pool"):
        tiltlm.frontier(None, grid, judge="gold", pool=1, **given)
    with raises(ConfigError, "no_effect", key="kl"):
        tiltlm.frontier(study[0] / "runs", judge="gold", kl=1.0, output=tmp_path / "out")
    with raises(ConfigError, "conflict", key="config"):
        tiltlm.frontier(study[0] / "runs", ["objective.beta=1"], judge="gold", output=tmp_path / "out")
    with raises(ConfigError, "no_run", key="config"):
        tiltlm.frontier(tmp_path, judge="gold", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
