"""Best-of-n from the command line and from Python: curves, page, winners that train, refusals."""

import json
import math
from dataclasses import replace

import pytest
from typer.testing import CliRunner

import tiltlm
from support.answered import Lengths, Says, row
from support.errors import raises
from tiltlm.cli.main import app
from tiltlm.core import ConfigError, RunError
from tiltlm.sampling.answers import write_answers

pytestmark = pytest.mark.usefixtures("blank_figures", "own_cache")


def test_pool_of_a_model_and_its_winners_train(model, prompts, tmp_path):
    folder = tmp_path / "pool"
    arguments = ["best-of-n", str(model), "--prompts", str(prompts), "--judge", "gold", "--gold", "length", "--n", "8"]
    arguments += ["--limit", "10"]
    found = CliRunner().invoke(
        app, [*arguments, "--max-new-tokens", "32", "--output", str(folder), "--markdown"], catch_exceptions=False
    )
    assert found.exit_code == 0, found.output
    twin = json.loads((folder / "best-of-n.json").read_text())
    curve = twin["curve"]
    assert curve["ns"] == [1, 2, 4, 8]
    scores = [point["estimate"] for point in curve["proxy"]]
    assert scores == sorted(scores)
    assert curve["kl_bound"][-1] == pytest.approx(math.log(8) - 7 / 8)
    assert all(point["estimate"] <= bound + 1e-9 for point, bound in zip(curve["kl"], curve["kl_bound"], strict=True))
    assert "best-of-n.html" in found.output
    assert (folder / "best-of-n.md").exists()
    winners = [json.loads(line) for line in (folder / "winners.jsonl").read_text().splitlines()]
    assert len(winners) == 10
    run = tiltlm.train(
        model=str(model), data=str(folder / "winners.jsonl"), objective="sft", output=tmp_path / "sft",
        **{"training.max_steps": 1, "evaluation.num_prompts": 0, "data.eval_fraction": 0, "training.batch_size": 2},
    )  # fmt: skip
    assert (run.path / "model" / "model.safetensors").exists()


def answers(path, temperature=1.0):
    rows = [
        row(f"prompt {i}", "a" * (1 + i % 3), "bb" * (1 + i % 2), "ccc", temperature=temperature, identity=str(i))
        for i in range(20)
    ]
    write_answers(path, rows)
    return path


def test_a_file_of_answers_has_the_curve_of_its_scores(tmp_path):
    path = answers(tmp_path / "answers.jsonl")
    found = tiltlm.best_of_n(path, judge=Lengths(), n=3, output=tmp_path / "out", progress=False)
    table = found.to_pandas()
    best = [max(1 + i % 3, 2 * (1 + i % 2), 3) for i in range(20)]
    assert table["n"].tolist() == [1, 2, 3]
    assert table["score"].iloc[-1] == pytest.approx(sum(best) / 20)
    assert found.pool.curve.kl is None, "answers as text have no log-probabilities"
    assert "best of 3" in repr(found)


def test_refusals(tmp_path, prompts):
    path = answers(tmp_path / "answers.jsonl")
    with raises(ConfigError, "missing_setting", key="judge"):
        tiltlm.best_of_n(path, output=tmp_path / "out")
    with raises(ConfigError, "too_few_answers", key="n"):
        tiltlm.best_of_n(path, judge=Lengths(), n=4, output=tmp_path / "out")
    with raises(ConfigError, "same_judge", key="gold"):
        tiltlm.best_of_n(path, judge=Lengths(), gold=Lengths(), n=3, output=tmp_path / "out")
    with raises(ConfigError, "not_a_scorer", key="judge"):
        tiltlm.best_of_n(path, judge=Says(lambda a, b: 0.5), n=3, output=tmp_path / "out")
    with raises(ConfigError, "no_effect", key="prompts"):
        tiltlm.best_of_n(path, prompts=prompts, judge=Lengths(), n=3, output=tmp_path / "out")


def test_too_many_failures_give_no_curve(tmp_path):
    rows = [row(f"prompt {i}", "bad" if i < 3 else "good", "fine", identity=str(i)) for i in range(40)]
    write_answers(tmp_path / "answers.jsonl", rows)
    with raises(RunError, "judge_errors", key="judge"):
        tiltlm.best_of_n(tmp_path / "answers.jsonl", judge=Lengths(), n=2, output=tmp_path / "out")
    write_answers(tmp_path / "few.jsonl", rows[2:])
    found = tiltlm.best_of_n(tmp_path / "few.jsonl", judge=Lengths(), n=2, output=tmp_path / "few")
    assert found.pool.left_out
    assert found.pool.curve.num_prompts == 37


def test_only_the_answers_that_are_used_are_judged(tmp_path):
    judge = Lengths()
    tiltlm.best_of_n(answers(tmp_path / "answers.jsonl"), judge=judge, n=2, output=tmp_path / "out", progress=False)
    assert len(judge.asked) == 2 * 20


def test_answers_at_several_temperatures_are_several_policies(tmp_path):
    rows = [row("prompt", "a", "b", temperature=t, identity=str(t)) for t in (0.5, 1.0)]
    write_answers(tmp_path / "answers.jsonl", rows)
    with raises(ConfigError, "several_temperatures", key="model"):
        tiltlm.best_of_n(tmp_path / "answers.jsonl", judge=Lengths(), n=2, output=tmp_path / "out")


def test_a_language_model_does_not_judge_its_own_family(tmp_path):
    judge = Lengths()
    judge.model = "Qwen/Qwen3-8B"
    rows = [replace(row(f"prompt {i}", "a", "bb", identity=str(i)), model="Qwen2.5-0.5B") for i in range(4)]
    write_answers(tmp_path / "answers.jsonl", rows)
    with raises(ConfigError, "own_family", key="judge.allow_self"):
        tiltlm.best_of_n(tmp_path / "answers.jsonl", judge=judge, n=2, output=tmp_path / "out")
    with raises(ConfigError, "own_family", key="judge.allow_self"):
        tiltlm.compare([tmp_path / "answers.jsonl"] * 2, judge=judge, output=tmp_path / "compared")
    assert not judge.asked
