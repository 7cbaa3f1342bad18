"""One clear message, exit code 2, nothing half-written: what a user may get wrong."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tiltlm
from tiltlm.core import ConfigError, DataError, ModelError, TiltError


def rows(path: Path, *lines: dict | str) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


PAIR = {"prompt": "Guest Ada: Where is my red hat?\nDesk:", "chosen": " Hello Ada!", "rejected": " Go away now!"}


def good(num: int) -> list[dict]:
    return [{**PAIR, "chosen": f" Hello Ada! {'I saw it today. ' * (i % 3 + 1)}{i}"} for i in range(num)]


@pytest.fixture
def attempt(model, tmp_path):
    """Try to train; the run directory must not exist afterwards."""

    def run(match: str, kind: type[TiltError], **settings):
        given = {"model": model, "objective": "dpo", "output": tmp_path / "run", **settings}
        with pytest.raises(kind, match=match) as caught:
            tiltlm.train(**given)
        assert caught.value.exit_code == 2
        assert not (tmp_path / "run").exists()

    return run


def test_a_missing_file(attempt, tmp_path):
    attempt("nothing.jsonl", DataError, data=tmp_path / "nothing.jsonl")


def test_an_unknown_column_names_the_way_out(attempt, tmp_path):
    row = {"question": "Why?", "chosen": "a", "rejected": "b"}
    attempt(r"question.*data\.ignore=\[question\]", DataError, data=rows(tmp_path / "d.jsonl", row))


def test_a_folder_without_weights(attempt, tmp_path, model):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    (folder / "model.safetensors").unlink()
    attempt("weights", ModelError, model=folder, data=rows(tmp_path / "d.jsonl", *good(4)))


def test_weights_as_pickle(attempt, tmp_path, model):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    attempt("pickle.*safetensors", ModelError, model=folder, data=rows(tmp_path / "d.jsonl", *good(4)))


def test_balance_of_experts_where_there_are_none(attempt, tmp_path):
    data = rows(tmp_path / "d.jsonl", *good(4))
    attempt("no routers.*leave it at 0", ModelError, data=data, router_aux_loss_coef=0.01)


def test_a_missing_model_folder(attempt, tmp_path):
    attempt("no-such-model", ModelError, model=tmp_path / "no-such-model", data=rows(tmp_path / "d.jsonl", *good(4)))


def test_a_tokenizer_without_an_end_token(attempt, tmp_path, model):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text())
    config.pop("eos_token")
    file.write_text(json.dumps(config))
    attempt("no end token", ModelError, model=folder, data=rows(tmp_path / "d.jsonl", *good(4)))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"objective": "dpoo"}, "did you mean 'dpo'"),
        ({"objective": {"name": "orpo", "beta": 0.1}}, "orpo does not use it"),
        ({"training.learning_rat": 1}, "learning_rate"),
        ({"objective": "simpo", "reference": "base"}, "reference"),
    ],
)
def test_unknown_names_and_settings_without_effect(attempt, tmp_path, settings, match):
    attempt(match, ConfigError, data=rows(tmp_path / "d.jsonl", *good(4)), **settings)


@pytest.mark.parametrize(
    ("defect", "cause"),
    [
        ('{"prompt": "x", "chosen": ', "malformed"),
        ({**PAIR, "rejected": PAIR["chosen"]}, "identical"),
        ({**PAIR, "chosen": ""}, "empty"),
        ({**PAIR, "chosen": None}, "null|missing|empty"),
        ({**PAIR, "chosen": " stairs" * 400}, "answer_too_long"),
    ],
    ids=["malformed", "identical", "empty", "null", "too long"],
)
@pytest.mark.parametrize("place", ["middle", "end"])
def test_defective_rows_are_dropped_while_few_and_stop_the_run_beyond(attempt, train, tmp_path, defect, cause, place):
    many = good(30)
    many.insert(15 if place == "middle" else 30, defect)
    data = rows(tmp_path / "d.jsonl", *many)
    run = train(tmp_path / "ok", data=data, objective="dpo", max_steps=1, max_bad=0.1)
    books = json.loads((run.path / "data.json").read_text())
    assert (books["total"], books["dropped"]) == (31, 1)
    line = 16 if place == "middle" else 31
    (lost,) = books["losses"].values()
    assert f":{line}" in lost["examples"][0]
    attempt(f"(?s)({cause}).*:{line}", DataError, data=data, **{"data.on_bad": "error"})
    attempt(f"(?s)data.max_bad.*({cause}).*:{line}", DataError, data=data, max_bad=0.01)


def run_cli(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", "from tiltlm.cli.main import main; main()", *arguments], capture_output=True, text=True
    )


@pytest.mark.slow
def test_the_command_line_says_it_in_one_message_and_exits_with_2(tmp_path, model):
    result = run_cli("train", "--model", model, "--data", str(tmp_path / "no.jsonl"), "--objective", "dpo",
                     "--output", str(tmp_path / "run"))  # fmt: skip
    assert result.returncode == 2
    assert result.stdout == ""
    assert "error: " in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


def test_help_needs_nothing_heavy():
    code = (
        "import sys; sys.argv = ['tiltlm', '--help']\n"
        "from tiltlm.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as stop: code = stop.code\n"
        "heavy = {'torch', 'transformers', 'numpy', 'pydantic', 'rich', 'datasets'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "quickstart" in result.stdout


SCORED = {"score_chosen": 0.9, "score_rejected": 0.1}


@pytest.mark.parametrize(
    ("objective", "row", "match"),
    [
        ("odpo", {}, r"score.*score_chosen"),
        ("rebel", {}, r"score.*score_chosen"),
        ("dno", {}, r"score.*score_chosen"),
        ("rebel", {**SCORED, "preference": 0.7}, r"preference.*data\.ignore=\[preference\]"),
        ("sppo", {"offset": 0.3}, r"offset.*data\.ignore=\[offset\]"),
        ("dpo", {"weight": -1.0}, r"weight.*-1"),
        ("dpo", {"weight": "heavy"}, r"weight.*heavy"),
    ],
)
def test_columns_an_objective_lacks_or_cannot_use(attempt, tmp_path, objective, row, match):
    data = rows(tmp_path / "d.jsonl", *({**pair, **row} for pair in good(4)))
    attempt(f"(?s){match}", DataError, data=data, objective=objective)


def test_a_score_tie_under_odpo_names_the_row(attempt, tmp_path):
    lines = [{**pair, **SCORED} for pair in good(4)]
    lines[2]["score_rejected"] = lines[2]["score_chosen"]
    attempt(r"(?s)score_tie.*\[?2\]?", DataError, data=rows(tmp_path / "d.jsonl", *lines), objective="odpo")


def test_a_ranked_list_with_a_missing_rank_names_row_and_column(attempt, tmp_path):
    lines = [
        {"prompt": p["prompt"], "completions": [p["chosen"], p["rejected"]], "ranks": [1, 2 if i else None]}
        for i, p in enumerate(good(3))
    ]
    data = rows(tmp_path / "d.jsonl", *lines)
    attempt(r"(?s)ranks\[1\] is null", DataError, data=data, objective="pl_dpo", on_bad="error")


@pytest.mark.parametrize("objective", ["dpo", "pl_dpo", "aot"])
def test_single_labels_given_to_a_method_of_comparisons(attempt, tmp_path, objective):
    lines = [{"prompt": p["prompt"], "completion": p["chosen"], "label": True} for p in good(3)]
    attempt("kto", DataError, data=rows(tmp_path / "d.jsonl", *lines), objective=objective)


@pytest.mark.parametrize(
    ("objective", "match"),
    [
        ({"name": "cdpo", "label_smoothing": 0.5}, r"label_smoothing.*0\.5"),
        ({"name": "robust_dpo", "label_smoothing": 0.7}, r"label_smoothing.*0\.7"),
        ({"name": "exo", "label_smoothing": 0.5}, r"label_smoothing"),
        ({"name": "alphapo", "alpha": 0}, r"alpha.*0.*simpo"),
        ({"name": "alphapo"}, r"alpha.*no default"),
        ({"name": "ln_dpo"}, r"beta.*no default"),
        ({"name": "f_dpo", "alpha": 0.5}, r"alpha.*no effect"),
        ({"name": "f_dpo", "divergence": "total_variation"}, r"divergence.*forward_kl"),
        ({"name": "r_dpo"}, r"length_dpo"),
        ({"name": "dpo", "beta": -0.1}, r"beta.*-0\.1"),
        ({"name": "tdpo2", "alpha": "half"}, r"alpha.*half"),
    ],
)
def test_knobs_that_cannot_be(attempt, tmp_path, objective, match):
    attempt(f"(?s){match}", ConfigError, data=rows(tmp_path / "d.jsonl", *good(4)), objective=objective)
