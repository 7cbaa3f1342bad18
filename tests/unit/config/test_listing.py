"""The list of all settings, its page, and the file that `tiltlm init` writes."""

import json
import re
import runpy
from dataclasses import fields, is_dataclass
from typing import get_type_hints

import pytest
import yaml
from typer.testing import CliRunner

from support.errors import raises
from support.pages import ROOT
from tiltlm.cli.main import app
from tiltlm.config.listing import all_settings, describe_settings, find_settings
from tiltlm.config.resolve import resolve
from tiltlm.config.starting_file import starting_file
from tiltlm.config.translate import translate
from tiltlm.core import ConfigError
from tiltlm.objectives import CATALOG
from tiltlm.recipes.run_settings import RunSettings

GIVEN = {"model": {"path": "M"}, "data": {"train": "D"}, "output": "runs/x"}


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_every_setting_is_listed_with_its_meaning():
    listed = {setting.key: setting for setting in all_settings()}
    for section, kind in get_type_hints(RunSettings).items():
        for field in fields(kind) if is_dataclass(kind) else ():
            assert f"{section}.{field.name}" in listed
    assert {"output", "objective.name", "model.lora.r", "data.chat_template_kwargs"} <= listed.keys()
    assert all(setting.meaning and setting.type for setting in listed.values())
    assert {key for key, setting in listed.items() if setting.is_required} == {
        "model.path", "data.train", "objective.name", "output",
    }  # fmt: skip
    assert not re.search(r"\b(None|True|False)\b", " ".join(s.meaning for s in listed.values()))


def test_settings_are_found_by_section_and_by_key():
    assert {s.section for s in find_settings("training")} == {"training"}
    assert [s.key for s in find_settings("training.seed")] == ["training.seed"]
    assert [s.key for s in find_settings("seed")] == ["training.seed", "evaluation.seed", "loop.seed", "examples.seed"]
    assert len(find_settings("model.lora")) > 3
    with raises(ConfigError, "unknown_name", key="trainig", mentions=["training"]):
        find_settings("trainig")


def test_the_command_prints_text_and_json():
    text = invoke("settings", "evaluation").stdout
    assert "evaluation.num_samples   whole number, default 2" in text
    assert "training." not in text
    assert max(map(len, describe_settings().splitlines())) <= 100
    rows = json.loads(invoke("settings", "--json").stdout)
    assert len(rows) == len(all_settings())
    assert [row["required"] for row in rows if row["key"] == "output"] == [True]
    assert [row["default"] for row in rows if row["key"] == "training.batch_size"] == [16]


def test_the_page_of_all_settings_is_up_to_date():
    page = runpy.run_path(str(ROOT / "scripts" / "make_settings_page.py"))["page"]()
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == page, "run scripts/make_settings_page.py"


@pytest.mark.parametrize("name", CATALOG)
def test_a_file_of_every_method_is_the_defaults_with_and_without_its_comments(name):
    text = starting_file({**GIVEN, "objective": {"name": name}})
    required = re.findall(r"^  (\w+):  # necessary", text, re.MULTILINE)
    text = re.sub(r"^(  \w+:)(  # necessary)", r"\1 0.5\2", text, flags=re.MULTILINE)
    plain = resolve(RunSettings, {**GIVEN, "objective": {"name": name, **dict.fromkeys(required, 0.5)}})
    assert resolve(RunSettings, yaml.safe_load(text)) == plain
    switched_on = re.sub(r"^  #(?=[\w]+: )(?!lora|cache_limit)", "  ", text, flags=re.MULTILINE)
    assert switched_on.count("#") < text.count("#") - 50
    assert resolve(RunSettings, yaml.safe_load(switched_on)) == plain


def test_parts_and_sums_are_written_as_they_are():
    spec = {"sum": [{"name": "dpo", "weight": 0.8}, {"name": "sft", "weight": 0.2}]}
    text = starting_file({**GIVEN, "objective": spec})
    assert yaml.safe_load(text)["objective"] == spec


def test_init_writes_a_file_that_is_not_overwritten(tmp_path):
    file = tmp_path / "new" / "run.yaml"
    file.parent.mkdir()
    result = invoke("init", file, "--model", "M", "--data", "[a.jsonl, b.jsonl]", "--objective", "ipo", "--output", "o")
    assert result.exit_code == 0, result.output
    found = resolve(RunSettings, file)
    assert (found.model.path, found.data.train, found.objective["name"]) == ("M", ("a.jsonl", "b.jsonl"), "ipo")
    with raises(ConfigError, "not_empty", key="file"):
        raise invoke("init", file).exception
    with raises(ConfigError, "unknown_name", mentions=["'dpo'"]):
        raise invoke("init", "--objective", "dpoo").exception
    assert yaml.safe_load(invoke("init").stdout)["model"] == {"path": "MODEL"}
    with raises(ConfigError, "not_writable", key="file"):
        raise invoke("init", "/dev/null/x.yaml").exception


TRL = {
    "model_name_or_path": "M",
    "dataset_name": "D.jsonl",
    "learning_rate": 5e-7,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 4,
    "gradient_checkpointing": True,
    "logging_steps": 25,
    "eval_strategy": "steps",
    "eval_steps": 50,
    "output_dir": "run",
    "loss_type": "sigmoid",
    "beta": 0.2,
    "max_length": 512,
    "use_peft": True,
    "lora_r": 32,
    "lora_alpha": 16,
    "lora_dropout": 0.05,
    "push_to_hub": True,
    "something_new": 3,
}
AXOLOTL = {
    "base_model": "M",
    "rl": "ipo",
    "rl_beta": 0.3,
    "datasets": [{"path": "owner/a", "split": "train_prefs", "type": "chatml.intel"}],
    "val_set_size": 0.05,
    "micro_batch_size": 2,
    "gradient_accumulation_steps": 8,
    "num_epochs": 2,
    "learning_rate": 2e-6,
    "optimizer": "adamw_bnb_8bit",
    "lr_scheduler": "cosine",
    "sequence_len": 2048,
    "adapter": "qlora",
    "lora_r": 8,
    "load_in_4bit": True,
    "bf16": "auto",
    "wandb_project": None,
    "output_dir": "out",
}


def test_a_configuration_of_trl_becomes_one_of_tiltlm():
    made = translate(TRL)
    settings = resolve(RunSettings, made.tree)
    training = settings.training
    assert (training.batch_size, training.num_epochs, training.learning_rate) == (16, 1, 5e-7)
    assert (training.eval_every, training.log_every, training.warmup_ratio) == (50, 25, 0.0)
    assert (settings.model.lora.r, settings.model.lora.alpha) == (32, 16)
    assert settings.model.gradient_checkpointing
    assert settings.data.eval_fraction == 0.1
    assert settings.data.max_length == 512
    assert settings.objective["beta"] == 0.2
    assert {text.partition(":")[0] for text in made.lost} == {"push_to_hub", "lora_dropout", "something_new"}


def test_a_configuration_of_axolotl_becomes_one_of_tiltlm():
    made = translate(AXOLOTL)
    settings = resolve(RunSettings, made.tree)
    assert (settings.model.path, settings.data.train, settings.data.split) == ("M", "owner/a", "train_prefs")
    assert settings.data.eval_fraction == 0.05
    assert (settings.training.batch_size, settings.training.optimizer) == (16, "adamw_8bit")
    assert (settings.objective["name"], settings.objective["tau"]) == ("ipo_mean", 0.3)
    assert settings.model.lora.r == 8
    assert {text.partition(":")[0] for text in made.lost} >= {"adapter", "load_in_4bit", "datasets"}


@pytest.mark.parametrize(
    ("there", "here"),
    [
        ({"loss_type": "hinge"}, {"name": "rso", "beta": 0.1, "delta": 1.0}),
        ({"loss_type": "sigmoid", "label_smoothing": 0.1}, {"name": "cdpo", "beta": 0.1, "label_smoothing": 0.1}),
        ({"loss_type": "simpo", "beta": 2, "simpo_gamma": 1}, {"name": "simpo", "beta": 2, "gamma_beta_ratio": 0.5}),
        ({"loss_type": "sigmoid", "cpo_alpha": 0.5}, {"name": "cpo", "beta": 0.1, "nll_weight": 0.5}),
        ({"desirable_weight": 1.5}, {"name": "kto", "beta": 0.1, "desirable_weight": 1.5}),
        ({"use_weighting": True, "beta": 0.2}, {"name": "wpo", "beta": 0.2}),
        ({"loss_type": "robust"}, {"name": "robust_dpo", "beta": 0.1, "label_smoothing": 0.0}),
        ({"f_divergence_type": "js_divergence"}, {"name": "f_dpo", "beta": 0.1, "divergence": "jensen_shannon"}),
        ({"center_rewards_coefficient": 0.01}, {"name": "reward_model", "centering": 0.01}),
        (
            {"loss_type": ["sigmoid", "sft"], "loss_weights": [0.8, 0.2]},
            {"sum": [{"name": "dpo", "beta": 0.1, "weight": 0.8}, {"name": "sft", "weight": 0.2}]},
        ),
    ],
)  # fmt: skip
def test_losses_of_trl_become_methods_here(there, here):
    made = translate({"model_name_or_path": "M", "dataset_name": "D", **there})
    assert made.tree["objective"] == here
    assert not made.lost
    resolve(RunSettings, {**made.tree, "output": "o"}).build_objective()


@pytest.mark.parametrize(
    ("given", "objective", "expected"),
    [
        ({"model_name_or_path": "M"}, None, (8, 3, 1e-6, 0.0, "linear", 1024)),
        ({"model_name_or_path": "M"}, "kto", (8, 3, 1e-6, 0.0, "linear", 1024)),
        ({"model_name_or_path": "M"}, "reward_model", (8, 3, 1e-4, 0.0, "linear", 1024)),
        ({"model_name_or_path": "M", "center_rewards_coefficient": 0.1}, None, (8, 3, 1e-4, 0.0, "linear", 1024)),
        ({"model_name_or_path": "M", "max_length": None}, None, (8, 3, 1e-6, 0.0, "linear", None)),
        ({"base_model": "M", "learning_rate": 3e-6}, None, (1, 1, 3e-6, 0.03, "cosine", 512)),
    ],
)
def test_the_defaults_that_a_translated_file_states_are_those_of_the_library_that_would_read_it(
    given, objective, expected
):
    """The values are those of the sources of TRL 1.16, transformers 5 (TrainingArguments) and axolotl 0.19."""
    settings = resolve(
        RunSettings, {**GIVEN, **translate({**given, "dataset_name": "D"}, objective).tree, "output": "o"}
    )
    found = settings.training
    assert (
        found.batch_size, found.num_epochs, found.learning_rate, found.warmup_ratio, found.schedule,
        settings.data.max_length,
    ) == expected  # fmt: skip


def test_what_a_loss_does_not_read_is_listed():
    made = translate({"model_name_or_path": "M", "loss_type": "hinge", "f_divergence_type": "alpha_divergence"})
    assert made.tree["objective"]["name"] == "rso"
    assert {text.partition(":")[0] for text in made.lost} == {"f_divergence_type"}


def test_the_loss_of_axolotls_dpo_trainer_can_be_another():
    made = translate({"base_model": "M", "dpo_loss_type": ["hinge", "sft"], "dpo_loss_weights": [1, 0.1], "rl": "dpo"})
    assert [term["name"] for term in made.tree["objective"]["sum"]] == ["rso", "sft"]


def test_the_trainer_can_be_named_and_a_foreign_file_is_refused(tmp_path):
    assert translate({"model_name_or_path": "M", "beta": 0.2}, "orpo").tree["objective"]["odds_weight"] == 0.2
    with raises(ConfigError, "unknown_file_format"):
        translate({"model": "M"})
    (tmp_path / "dpo.yaml").write_text(yaml.safe_dump(TRL))
    result = invoke("init", "--from", tmp_path / "dpo.yaml", "--data", "E.jsonl")
    assert "push_to_hub" in result.stderr
    assert result.stdout.count("No counterpart") == 3
    assert yaml.safe_load(result.stdout)["data"]["train"] == "E.jsonl"
