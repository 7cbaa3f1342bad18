"""Methods compared from the command line and from Python: equal trials, new seeds, resumed, refusals."""

import json

import pytest
from typer.testing import CliRunner

import tiltlm
from support.errors import raises
from tiltlm.cli.main import app
from tiltlm.core import ConfigError, RunError
from tiltlm.objectives import CATALOG

pytestmark = pytest.mark.usefixtures("blank_figures", "own_cache")

FAST = {
    "training.max_steps": 2,
    "training.batch_size": 8,
    "evaluation.num_prompts": 4,
    "evaluation.num_samples": 2,
    "evaluation.max_new_tokens": 16,
    "data.eval_fraction": 0.3,
}


def twin(folder):
    return json.loads((folder / "methods.json").read_text())


def test_by_accuracy_from_the_command_line(model, data, tmp_path):
    folder = tmp_path / "out"
    arguments = ["compare-methods", "--model", model, "--data", str(data), "--methods", "dpo,simpo", "--budget", "6"]
    arguments += ["--seeds", "1", "--learning-rates", "1e-3,1e-4", "--output", str(folder), "--markdown"]
    arguments += [f"{key}={value}" for key, value in FAST.items()]
    found = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert found.exit_code == 0, found.output
    content = twin(folder)
    assert content["measure"] == "held-out ranking accuracy"
    assert [len(method["trials"]) for method in content["methods"]] == [2, 2]
    assert sum(trial["is_chosen"] for method in content["methods"] for trial in method["trials"]) == 2
    rates = [t["settings"]["learning_rate"] for m in content["methods"] for t in m["trials"]]
    assert sorted(rates) == [1e-4, 1e-4, 1e-3, 1e-3], "rates rotate among the trials"
    runs = sorted(path.name for path in (folder / "runs").iterdir())
    assert len(runs) == 6
    assert [("seed=0" in name, "seed=1" in name) for name in runs] == [(True, False)] * 4 + [(False, True)] * 2
    assert "is best by held-out ranking accuracy" in found.output
    assert (folder / "methods.md").exists()
    again = CliRunner().invoke(app, [*arguments, "--resume"], catch_exceptions=False)
    assert again.exit_code == 0
    assert twin(folder) == content


def test_by_a_judge_from_python(model, data, tmp_path):
    found = tiltlm.compare_methods(
        model=model, data=str(data), methods=["dpo", "sft"], trials=2, seeds=2, judge="gold", limit=8, n=2,
        max_new_tokens=16, output=tmp_path / "out", progress=False, **{**FAST, "data.eval_fraction": 0.5},
    )  # fmt: skip
    assert found.comparison.measure == "gold score"
    assert {result.method for result in found.comparison.methods} == {"dpo", "sft"}
    assert all(result.num_seeds == 2 for result in found.comparison.methods)
    assert found.comparison.num_choosing + found.comparison.num_reporting == 8
    (pair,) = found.comparison.pairs
    assert pair.difference.low < pair.difference.estimate < pair.difference.high
    assert found.to_pandas()["method"].tolist() == [result.method for result in found.comparison.methods]
    assert repr(found).startswith("ComparedMethods: ")


def test_without_a_ranking_accuracy_the_way_out_is_named(model, tmp_path, monkeypatch):
    """Demonstrations alone compare nothing, so there is no number to choose by."""
    monkeypatch.setitem(CATALOG, "again", lambda: CATALOG["sft"]())
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"Where is {i}?", "completion": "Here."}) + "\n" for i in range(40)))
    with raises(RunError, "no_runs", mentions=["name a judge"]):
        tiltlm.compare_methods(
            model=model, data=str(rows), methods="sft,again", trials=1, seeds=1, output=tmp_path / "out",
            progress=False,
            **FAST,
        )  # fmt: skip


def test_refusals(model, data, tmp_path):
    given = {"model": model, "data": str(data), "output": tmp_path / "out", **FAST}
    for problem, code, key in (
        ({"methods": "dpo"}, "too_few_methods", "methods"),
        ({"methods": "dpo,dpo"}, "duplicate", "methods"),
        ({"methods": "dpo,reward_model"}, "not_a_policy", "methods"),
        ({"methods": "dpo,nothing"}, "unknown_name", "name"),
        ({"methods": "dpo,sft", "trials": 4}, "too_many_trials", "trials"),
        ({"budget": 5}, "out_of_range", "budget"),
        ({"budget": 50, "trials": 2}, "conflict", "budget"),
        ({"seeds": 0}, "out_of_range", "seeds"),
        ({"learning_rates": "1e-4,x"}, "wrong_type", "learning_rates"),
        ({"max_kl": -1.0}, "not_positive", "max_kl"),
        ({"prompts": "p.jsonl"}, "no_effect", "prompts"),
    ):
        with raises(ConfigError, code, key=key):
            tiltlm.compare_methods(**given, **problem)
    assert not (tmp_path / "out").exists()
