"""Training from pairs as a user does it: the run directory, resuming, objectives, adapters, sweeps."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

import tiltlm
from support.errors import events, has_event, raises
from tiltlm.cli.main import app
from tiltlm.core import ConfigError
from tiltlm.report import read_run, verdict_of
from tiltlm.worlds import TextWorld

pytestmark = pytest.mark.usefixtures("blank_figures")


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_margins_rise_from_zero(trained):
    lines = records(trained.path)
    first, last = (next(r for r in rs if "eval_loss" in r) for rs in (lines, lines[::-1]))
    assert first["step"] == 0
    assert abs(first["eval_rewards/margins"]) < 1e-4
    assert first["eval_loss"] == pytest.approx(0.6931, abs=1e-4)
    assert last["eval_rewards/margins"] > 0.5
    assert last["eval_rewards/accuracies"] > 0.7


def test_the_run_directory_is_complete(trained):
    names = {p.name for p in trained.path.iterdir()}
    assert {
        "config.yaml", "versions.json", "digests.json", "commits.json", "data.json", "metrics.jsonl", "checkpoints",
        "model", "report.html", "report.json", "log.txt",
    } <= names  # fmt: skip
    books = json.loads((trained.path / "data.json").read_text())
    assert books["total"] == books["train"] + books["held_out"] + books["dropped"] == 64
    assert not [n for n in names if n.endswith((".pt", ".bin", ".pkl"))]


def test_the_report_has_a_verdict(trained):
    report = json.loads((trained.path / "report.json").read_text())
    assert report["held_out"]["contrast"]["margin"]["after"]["low"] > 0
    assert report["samples"]["after"]["kl"]["estimate"] > 0
    assert report["training_accuracy"]["estimate"] > 0.75
    assert "held-out" in trained.summary()
    assert "<script" not in (trained.path / "report.html").read_text()


def test_the_saved_model_is_an_ordinary_folder(trained, model):
    loaded = AutoModelForCausalLM.from_pretrained(trained.path / "model")
    tokenizer = AutoTokenizer.from_pretrained(trained.path / "model")
    files = {p.name for p in (trained.path / "model").iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md"} <= files
    before = AutoModelForCausalLM.from_pretrained(model)
    pairs = zip(loaded.parameters(), before.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)
    prompt = "Guest Ada: Where is my red hat?\nDesk:"
    inputs = tokenizer(prompt, return_tensors="pt")
    answer = loaded.generate(**inputs, max_new_tokens=40, do_sample=False)[0, inputs.input_ids.shape[1] :]
    assert answer[-1] == tokenizer.eos_token_id
    assert TextWorld().reward(prompt, tokenizer.decode(answer, skip_special_tokens=True)) == 4, "all four courtesies"


def test_a_second_run_computes_no_reference_log_probability(train, data, tmp_path, caplog):
    common = {"data": data, "objective": "dpo", "max_steps": 1}
    with caplog.at_level("DEBUG", "tiltlm"):
        train(tmp_path / "a", **common, **{"reference.store": str(tmp_path / "store")})
        assert events(caplog, "reference_pass")
        assert not has_event(caplog, "reference_pass", computed=0)
        caplog.clear()
        again = {**common, "objective": "ipo", "training.seed": 5, "learning_rate": 1e-5, "batch_size": 3}
        train(tmp_path / "b", **again, **{"reference.store": str(tmp_path / "store")})
    assert has_event(caplog, "reference_pass", stored=128, computed=0)


def test_an_appended_row_costs_one(train, data, tmp_path, caplog):
    longer = tmp_path / "longer.jsonl"
    shutil.copy(data, longer)
    row = json.loads(data.read_text().splitlines()[0])
    row = {**row, "chosen": row["chosen"] + " Take the stairs.", "rejected": row["rejected"]}
    with longer.open("a") as file:
        file.write(json.dumps(row) + "\n")
    store = {"reference.store": str(tmp_path / "store")}
    train(tmp_path / "a", data=data, objective="dpo", max_steps=1, **store)
    with caplog.at_level("DEBUG", "tiltlm"):
        train(tmp_path / "b", data=longer, objective="dpo", max_steps=1, **store)
    assert has_event(caplog, "reference_pass", stored=128, computed=1)


def test_resume_equals_uninterrupted(train, data, trained, tmp_path):
    """A run that lost its last checkpoint and was resumed ends in the same weights, bit for bit."""
    copy = tmp_path / "copy"
    shutil.copytree(trained.path, copy)
    newest = max((copy / "checkpoints").iterdir(), key=lambda p: p.name)
    shutil.rmtree(newest)
    settings = {
        "data": data, "objective": "dpo", "beta": 0.5, "learning_rate": 1e-3, "num_epochs": 4, "batch_size": 8,
        "eval_fraction": 0.25, "save_every": 6, "eval_every": 6,
    }  # fmt: skip
    train(copy, resume=True, **settings)
    kept, resumed = (AutoModelForCausalLM.from_pretrained(p / "model") for p in (trained.path, copy))
    for a, b in zip(kept.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_kto_on_pairs_announces_the_split(train, data, tmp_path, caplog):
    with caplog.at_level("DEBUG", "tiltlm"):
        train(tmp_path / "run", data=data, objective="kto", max_steps=1)
    assert any(re.search(r"\bdesirable\b.*\bundesirable\b", message) for message in caplog.messages)


def test_lora_trains_an_adapter_and_saves_both(train, data, tmp_path, model):
    run = train(
        tmp_path / "run", data=data, objective="dpo", learning_rate=5e-3, num_epochs=2, batch_size=8,
        eval_fraction=0.25, **{"model.lora.r": 4},
    )  # fmt: skip
    lines = [r for r in records(run.path) if "eval_loss" in r]
    assert abs(lines[0]["eval_rewards/margins"]) < 1e-4
    assert lines[-1]["eval_rewards/margins"] > 0.1
    merged = AutoModelForCausalLM.from_pretrained(run.path / "model")
    assert not hasattr(merged, "peft_config")
    assert (run.path / "adapter" / "adapter_config.json").exists()
    ids = torch.tensor([[1, 5, 9, 12]])
    from peft import PeftModel

    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), run.path / "adapter")
    torch.testing.assert_close(merged(ids).logits, adapted(ids).logits, atol=1e-4, rtol=1e-4)


def test_the_resolved_configuration_runs_again(trained, tmp_path):
    again = tiltlm.train(trained.path / "config.yaml", output=tmp_path / "again", max_steps=1)
    assert again.training.num_steps == 1


def test_the_command_of_the_report_repeats_the_run(trained, tmp_path):
    program, *arguments = shlex.split(trained.report.command.replace("NEW_FOLDER", str(tmp_path / "again")))
    assert program == "tiltlm"
    ended = CliRunner().invoke(app, arguments)
    assert ended.exit_code == 0, ended.output
    again = read_run(tmp_path / "again")
    assert again.held_out == trained.report.held_out
    assert again.samples == trained.report.samples


def test_a_learning_rate_of_nothing_is_no_success(train, data, tmp_path):
    """The first step ranks most training pairs, because all rewards were 0 before it."""
    run = train(tmp_path / "run", data=data, objective="dpo", beta=0.1, learning_rate=1e-8, num_epochs=4, batch_size=8)
    verdict = verdict_of(run.report)
    assert (verdict.word, verdict.colour) == ("It hardly moved", "unclear")
    assert run.report.held_out.shift.estimate < 1e-2


def test_a_run_is_not_overwritten_unasked(train, data, trained):
    with raises(ConfigError, "already_holds_run", key="output", mentions=["--resume", "--overwrite"]):
        train(trained.path, data=data, objective="dpo")


def test_another_run_is_not_resumed_and_its_records_stay(train, data, trained):
    before = (trained.path / "config.yaml").read_text()
    with raises(ConfigError, "other_run", key="--resume"):
        train(trained.path, data=data, objective="ipo", eval_fraction=0.25, resume=True)
    assert (trained.path / "config.yaml").read_text() == before


def test_sweep_compares_runs_over_one_store(model, data, tmp_path, caplog):
    with caplog.at_level("DEBUG", "tiltlm"):
        result = tiltlm.sweep(
            None,
            {"beta": [0.1, 1.0], "training.seed": [0]},
            model=model,
            data=data,
            objective="dpo",
            output=tmp_path / "sweep",
            max_steps=2,
            eval_fraction=0.25,
            **{"evaluation.num_prompts": 0, "reference.store": str(tmp_path / "store")},
        )
    assert has_event(caplog, "reference_pass", stored=128, computed=0)
    assert [run.name for run in result.runs] == ["00-beta=0.1", "01-beta=1.0"]
    page = (tmp_path / "sweep" / "comparison.html").read_text()
    assert "00-beta%3D0.1/report.html" in page
    assert "01-beta%3D1.0/report.html" in page


def test_a_sweep_of_named_points_and_seeds(model, data, tmp_path):
    """Each method has its own settings, and its seeds are repetitions of one point."""
    points = tmp_path / "points.yaml"
    points.write_text("dpo: {objective: dpo, objective.beta: 0.5}\nipo: {objective: {name: ipo, tau: 0.2}}\n")
    common = {"model": model, "data": data, "max_steps": 1, "evaluation.num_prompts": 0}
    result = tiltlm.sweep(None, ["training.seed=0,1"], points=points, output=tmp_path / "sweep", **common)
    names = [
        f"{2 * i + seed:02d}-point={point}-seed={seed}" for i, point in enumerate(("dpo", "ipo")) for seed in (0, 1)
    ]
    assert [run.name for run in result.runs] == names
    objectives = [run.report.config["objective"] for run in result.runs]
    assert [o["name"] for o in objectives] == ["dpo", "dpo", "ipo", "ipo"]
    assert (objectives[0]["beta"], objectives[2]["tau"]) == (0.5, 0.2)
    twin = json.loads((tmp_path / "sweep" / "comparison.json").read_text())
    assert [(point["name"], len(point["runs"])) for point in twin["points"]] == [("point=dpo", 2), ("point=ipo", 2)]
    first, last = (run.report.held_out.accuracy_by_prompt for run in (result.runs[0], result.runs[3]))
    assert first
    assert first.keys() == last.keys()
    with raises(ConfigError, "duplicate", key="objective.beta"):
        tiltlm.sweep(None, {"objective.beta": [0.1, 0.2]}, points=points, output=tmp_path / "other", **common)
    with raises(ConfigError, "wrong_type", key="points"):
        tiltlm.sweep(None, {}, points={"dpo": "objective"}, output=tmp_path / "other", **common)


def test_the_most_alike_pairs_are_left_out_and_counted(train, data, tmp_path):
    """Those that stay have the lowest CHES, by a forward of its own; held-out pairs all stay."""
    settings = {"data": data, "objective": "dpo", "max_steps": 2, "batch_size": 8, "eval_fraction": 0.25}
    whole = train(tmp_path / "whole", **settings)
    some = train(tmp_path / "some", **settings, **{"data.max_ches": 0.75})
    books, all_books = (json.loads((run.path / "data.json").read_text()) for run in (some, whole))
    left_out = books["losses"]["ches_above_limit"]["rows"]
    assert left_out == pytest.approx(all_books["train"] / 4, abs=1)
    assert books["train"] == all_books["train"] - left_out
    assert books["held_out"] == all_books["held_out"]
    assert books["fingerprint"] != all_books["fingerprint"]
    assert books["total"] == books["train"] + books["held_out"] + books["dropped"]
    assert any("CHES" in note for note in some.report.notes)
    with raises(ConfigError, "no_effect", key="data.max_ches"):
        train(tmp_path / "sft", **{**settings, "objective": "sft", "data.max_ches": 0.5})
    with raises(ConfigError, "out_of_range", key="data.max_ches"):
        train(tmp_path / "bad", **settings, **{"data.max_ches": 1.5})


def test_the_report_says_where_probability_went(trained):
    found = trained.report.probability
    assert found.shift.samples.estimate < 0, "minus the KL from the untrained policy to the trained one"
    assert 0 <= found.shift.greedy_changed.estimate <= 1
    assert found.ches.num_comparisons == trained.report.held_out.num_examples
    assert found.weights.mean.before.estimate == pytest.approx(0.5, abs=1e-3), "σ(0) at margins of 0"
    assert found.weights.mean.after.estimate < 0.5
    assert "Where probability went" in (trained.path / "report.html").read_text()
