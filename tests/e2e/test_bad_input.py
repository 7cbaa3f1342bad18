"""Mistakes of users: each gives one clear message, exit code 2 and no files."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import tiltlm
from support.errors import raises
from tiltlm.core import ConfigError, DataError, ModelError, TiltError

pytestmark = pytest.mark.usefixtures("blank_figures")


def rows(path: Path, *lines: dict | str) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


PAIR = {"prompt": "Guest Ada: Where is my red hat?\nDesk:", "chosen": " Hello Ada!", "rejected": " Go away now!"}


def good(num: int) -> list[dict]:
    return [{**PAIR, "chosen": f" Hello Ada! {'I saw it today. ' * (i % 3 + 1)}{i}"} for i in range(num)]


@pytest.fixture
def attempt(model, tmp_path):
    """Return a function that tries to train and checks the error; the run directory must not exist afterwards."""

    def run(kind: type[TiltError], code: str, key: str | None = None, mentions: Sequence[str] = (), **settings):
        given = {"model": model, "objective": "dpo", "output": tmp_path / "run", **settings}
        with raises(kind, code, key=key, mentions=mentions) as caught:
            tiltlm.train(**given)
        assert caught.value.exit_code == 2
        assert not (tmp_path / "run").exists()

    return run


def test_a_missing_file(attempt, tmp_path):
    missing = tmp_path / "nothing.jsonl"
    attempt(DataError, "no_such_path", mentions=[str(missing)], data=missing)


def test_an_unknown_column_names_the_way_out(attempt, tmp_path):
    row = {"user": "Why?", "chosen": "a", "rejected": "b", "extra": 1}
    mentions = ["d.jsonl:1", "'user'", "data.columns.prompt=user data.ignore=[extra]"]
    attempt(DataError, "unknown_column", mentions=mentions, data=rows(tmp_path / "d.jsonl", row))


@pytest.mark.parametrize(
    ("lines", "code", "settings"),
    [
        ([{"user": "Why?", "chosen": "a", "rejected": "b"}], "unknown_column", {}),
        ([{"prompt": "Why?", "completion": "a", "label": True}] * 3, "one_label", {"objective": "kto"}),
        ([{"prompt": "Why?", "completion": "a", "label": True}], "wrong_data_shape", {}),
        ([{"prompt": "Why?", "chosen": "a", "rejected": ""}], "too_many_defects", {}),
        ([{"prompt": "Why?", "chosen": "a", "rejected": "b"}], "no_effect", {"data.split": "test"}),
    ],
)
def test_what_the_rows_show_is_refused_before_a_model_is_loaded(tmp_path, model, monkeypatch, lines, code, settings):
    monkeypatch.setattr("tiltlm.recipes.prepare.load_policy", None)
    data = rows(tmp_path / "d.jsonl", *lines)
    with raises(TiltError, code):
        tiltlm.train(model=model, data=data, output=tmp_path / "run", **{"objective": "dpo", **settings})
    assert not (tmp_path / "run").exists()


def test_a_folder_without_weights(attempt, tmp_path, model):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    (folder / "model.safetensors").unlink()
    data = rows(tmp_path / "d.jsonl", *good(4))
    attempt(ModelError, "no_weights", "model.path", [str(folder)], model=folder, data=data)


def test_weights_as_pickle(attempt, tmp_path, model):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    data = rows(tmp_path / "d.jsonl", *good(4))
    mentions = ["pytorch_model.bin", "safetensors"]
    attempt(ModelError, "only_pickles", "model.path", mentions, model=folder, data=data)


def test_balance_of_experts_where_there_are_none(attempt, tmp_path):
    data = rows(tmp_path / "d.jsonl", *good(4))
    attempt(ModelError, "not_supported", "training.router_aux_loss_coef", data=data, router_aux_loss_coef=0.01)


def test_a_missing_model_folder(attempt, tmp_path):
    missing, data = tmp_path / "no-such-model", rows(tmp_path / "d.jsonl", *good(4))
    attempt(ModelError, "no_such_path", "model.path", [str(missing)], model=missing, data=data)


def test_a_tokenizer_without_an_end_token(attempt, tmp_path, model):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text())
    config.pop("eos_token")
    file.write_text(json.dumps(config))
    data = rows(tmp_path / "d.jsonl", *good(4))
    attempt(ModelError, "no_end_token", "model.path", ["eos_token"], model=folder, data=data)


@pytest.mark.parametrize(
    ("settings", "code", "key", "mentions"),
    [
        ({"objective": "dpoo"}, "unknown_name", "objective.name", ["'dpo'"]),
        ({"objective": {"name": "orpo", "beta": 0.1}}, "renamed_setting", "objective.beta", ["odds_weight"]),
        ({"training.learning_rat": 1}, "unknown_setting", "training.learning_rat", ["'learning_rate'"]),
        ({"objective": "simpo", "reference": "base"}, "no_effect", "reference.name", ["'base'"]),
    ],
)
def test_unknown_names_and_settings_without_effect(attempt, tmp_path, settings, code, key, mentions):
    attempt(ConfigError, code, key, mentions, data=rows(tmp_path / "d.jsonl", *good(4)), **settings)


@pytest.mark.parametrize(
    ("defect", "cause"),
    [
        ('{"prompt": "x", "chosen": ', "malformed_json"),
        ({**PAIR, "rejected": PAIR["chosen"]}, "identical_responses"),
        ({**PAIR, "chosen": ""}, "empty_response"),
        ({**PAIR, "chosen": None}, "empty_response"),
        ({**PAIR, "chosen": " stairs" * 400}, "response_too_long"),
    ],
    ids=["malformed", "identical", "empty", "null", "too long"],
)
@pytest.mark.parametrize("place", ["middle", "end"])
def test_defective_rows_are_dropped_while_few_and_stop_the_run_beyond(attempt, train, tmp_path, defect, cause, place):
    many = good(30)
    many.insert(15 if place == "middle" else 30, defect)
    data = rows(tmp_path / "d.jsonl", *many)
    run = train(tmp_path / "ok", data=data, objective="dpo", max_steps=1, max_bad=0.1)
    accounting = json.loads((run.path / "data.json").read_text())
    assert (accounting["total"], accounting["dropped"]) == (31, 1)
    line = 16 if place == "middle" else 31
    (lost,) = accounting["losses"].values()
    assert list(accounting["losses"]) == [cause]
    assert f":{line}" in lost["examples"][0]
    mentions = [cause, f"d.jsonl:{line}"]
    attempt(DataError, "too_many_defects", "data.on_bad", mentions, data=data, **{"data.on_bad": "error"})
    attempt(DataError, "too_many_defects", "data.max_bad", mentions, data=data, max_bad=0.01)


def run_cli(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", "from tiltlm.cli.main import main; main()", *arguments], capture_output=True, text=True
    )


@pytest.mark.slow
def test_the_command_line_prints_one_message_and_exits_with_2(tmp_path, model):
    result = run_cli("train", "--model", model, "--data", str(tmp_path / "no.jsonl"), "--objective", "dpo",
                     "--output", str(tmp_path / "run"))  # fmt: skip
    assert result.returncode == 2
    assert result.stdout == ""
    assert "error: " in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


SCORED = {"score_chosen": 0.9, "score_rejected": 0.1}


@pytest.mark.parametrize(
    ("objective", "row", "code", "mentions"),
    [
        ("odpo", {}, "missing_column", ["'score_chosen'"]),
        ("rebel", {}, "missing_column", ["'score_chosen'"]),
        ("dno", {}, "missing_column", ["'score_chosen'"]),
        ("rebel", {**SCORED, "preference": 0.7}, "not_used_by_objective", ["data.ignore=[preference]"]),
        ("sppo", {"offset": 0.3}, "not_used_by_objective", ["data.ignore=[offset]"]),
        ("dpo", {"weight": -1.0}, "too_many_defects", ["wrong_type", "d.jsonl:1", "weight", "-1"]),
        ("dpo", {"weight": "heavy"}, "too_many_defects", ["wrong_type", "d.jsonl:1", "weight", "'heavy'"]),
    ],
)
def test_columns_an_objective_lacks_or_cannot_use(attempt, tmp_path, objective, row, code, mentions):
    data = rows(tmp_path / "d.jsonl", *({**pair, **row} for pair in good(4)))
    attempt(DataError, code, mentions=mentions, data=data, objective=objective)


def test_a_score_tie_under_odpo_names_the_row(attempt, tmp_path):
    lines = [{**pair, **SCORED} for pair in good(4)]
    lines[2]["score_rejected"] = lines[2]["score_chosen"]
    data, mentions = rows(tmp_path / "d.jsonl", *lines), ["score_tie", "d.jsonl:3"]
    attempt(DataError, "too_many_defects", "data.max_bad", mentions, data=data, objective="odpo")


def test_a_ranked_list_with_a_missing_rank_names_row_and_column(attempt, tmp_path):
    lines = [
        {"prompt": p["prompt"], "completions": [p["chosen"], p["rejected"]], "ranks": [1, 2 if i else None]}
        for i, p in enumerate(good(3))
    ]
    data = rows(tmp_path / "d.jsonl", *lines)
    mentions = ["missing_value", "d.jsonl:1", "ranks[1]"]
    attempt(DataError, "too_many_defects", "data.on_bad", mentions, data=data, objective="pl_dpo", on_bad="error")


@pytest.mark.parametrize("objective", ["dpo", "pl_dpo", "aot"])
def test_single_labels_given_to_a_method_of_comparisons(attempt, tmp_path, objective):
    lines = [{"prompt": p["prompt"], "completion": p["chosen"], "label": True} for p in good(3)]
    data = rows(tmp_path / "d.jsonl", *lines)
    attempt(DataError, "wrong_data_shape", mentions=["kto"], data=data, objective=objective)


@pytest.mark.parametrize(
    ("objective", "code", "knob", "mentions"),
    [
        ({"name": "cdpo", "label_smoothing": 0.5}, "out_of_range", "label_smoothing", ["0.5"]),
        ({"name": "robust_dpo", "label_smoothing": 0.7}, "out_of_range", "label_smoothing", ["0.7"]),
        ({"name": "exo", "label_smoothing": 0.5}, "out_of_range", "label_smoothing", ["0.5"]),
        ({"name": "alphapo", "alpha": 0}, "out_of_range", "alpha", ["0", "simpo"]),
        ({"name": "alphapo"}, "missing_setting", "alpha", ["alphapo"]),
        ({"name": "ln_dpo"}, "missing_setting", "beta", ["ln_dpo"]),
        ({"name": "f_dpo", "alpha": 0.5}, "no_effect", "alpha", ["reverse_kl"]),
        ({"name": "f_dpo", "divergence": "total_variation"}, "unknown_name", "divergence", ["forward_kl"]),
        ({"name": "r_dpo"}, "no_method", "name", ["length_dpo", "robust_dpo"]),
        ({"name": "dpo", "beta": -0.1}, "not_positive", "beta", ["-0.1"]),
        ({"name": "tdpo2", "alpha": "half"}, "wrong_type", "alpha", ["'half'"]),
    ],
)
def test_knobs_that_cannot_be(attempt, tmp_path, objective, code, knob, mentions):
    data = rows(tmp_path / "d.jsonl", *good(4))
    attempt(ConfigError, code, f"objective.{knob}", mentions, data=data, objective=objective)
