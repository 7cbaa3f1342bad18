"""Defaults < file < overrides; unknown keys are refused with their place; resolved settings read back."""

from functools import partial
from pathlib import Path

import pytest
import yaml

from support.errors import raises
from tiltlm.config.resolve import parse_overrides
from tiltlm.config.resolve import resolve as resolve_as
from tiltlm.core import ConfigError
from tiltlm.recipes.run_settings import RunSettings
from tiltlm.report import to_plain

resolve = partial(resolve_as, RunSettings)
BASE = {"model": "m", "data": "d.jsonl", "objective": "dpo", "output": "out"}


def test_bare_values_stand_for_the_main_key():
    settings = resolve(BASE)
    assert settings.model.path == "m"
    assert settings.data.train == "d.jsonl"
    assert settings.objective == {"name": "dpo", "beta": 0.1}
    assert settings.output == Path("out")


def test_overrides_win_over_the_file(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({**BASE, "objective": {"name": "dpo", "beta": 0.5}, "training": {"seed": 3}}))
    settings = resolve(file, **parse_overrides(["objective.beta=0.2", "training.learning_rate=5e-7"]))
    assert settings.objective["beta"] == 0.2
    assert settings.training.learning_rate == 5e-7
    assert settings.training.seed == 3


def test_another_objective_drops_the_knobs_of_the_first(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({**BASE, "objective": {"name": "dpo", "beta": 0.5}}))
    assert resolve(file, objective="ipo").objective == {"name": "ipo", "tau": 0.1}


def test_a_bare_key_finds_its_section():
    settings = resolve(BASE, beta=0.3, learning_rate=1e-3, eval_fraction=0.1)
    assert settings.objective["beta"] == 0.3
    assert settings.training.learning_rate == 1e-3
    assert settings.data.eval_fraction == 0.1


def test_a_bare_key_of_two_sections_must_be_qualified():
    with raises(ConfigError, "ambiguous_setting", key="seed", mentions=["training.seed", "evaluation"]):
        resolve(BASE, seed=3)


def test_lora_can_be_just_switched_on():
    assert resolve(BASE).model.lora is None
    assert resolve(BASE, **{"model.lora": True}).model.lora.r == resolve(BASE, **{"model.lora.r": 16}).model.lora.r
    assert resolve(BASE, **{"model.lora.r": 4}).model.lora.r == 4
    assert resolve({**BASE, "model": {"path": "m", "lora": False}}).model.lora is None


@pytest.mark.parametrize(
    ("section", "text", "line", "code", "key", "mentions"),
    [
        ("objective", "  name: dpo\n  bta: 0.2\n", 2, "unknown_setting", "objective.bta", ["dpo", "'beta'"]),
        ("objective", "  name: dpoo\n", 1, "unknown_name", "objective.name", ["'dpoo'", "'dpo'"]),
        ("objective", "  name: orpo\n  beta: 0.1\n", 2, "renamed_setting", "objective.beta", ["orpo", "odds_weight"]),
        ("objective", "  beta: 0.1\n", 0, "missing_setting", "objective.name", []),
        ("training", "  learning_rat: 1\n", 1, "unknown_setting", "training.learning_rat", ["'learning_rate'"]),
        ("training", "  batch_size: many\n", 1, "wrong_type", "training.batch_size", ["'many'"]),
        ("training", "  batch_size: 0\n", 1, "not_positive", "training.batch_size", ["0"]),
        ("training", "  schedule: linaer\n", 1, "unknown_name", "training.schedule", ["'linaer'", "'linear'"]),
        ("model", "  path: m\n  lora:\n    rank: 4\n", 3, "unknown_setting", "model.lora.rank", []),
        ("trainig", "  seed: 1\n", 0, "unknown_setting", "trainig", ["training"]),
    ],
)
def test_a_mistake_in_a_file_is_named_with_its_line(tmp_path, section, text, line, code, key, mentions):
    """`line` counts from the section's own, which is 0."""
    file = tmp_path / "run.yaml"
    others = [f"{k}: {v}\n" for k, v in BASE.items() if k != section]
    file.write_text("".join([*others, f"{section}:\n", text]))
    place = f"{file}:{len(others) + 1 + line}: "
    with raises(ConfigError, code, key=key, mentions=[place, *mentions]):
        resolve(file)


def test_a_bare_key_with_an_unknown_objective_is_an_error_about_the_objective():
    with raises(ConfigError, "unknown_name", key="objective.name", mentions=["'dpoo'", "'dpo'"]):
        resolve(BASE, objective="dpoo", beta=0.1)


def test_a_bare_key_that_the_method_calls_otherwise_is_named():
    with raises(ConfigError, "renamed_setting", key="objective.beta", mentions=["odds_weight"]):
        resolve(BASE, objective="orpo", beta=0.1)


def test_a_missing_section_says_how_to_give_it():
    with raises(ConfigError, "missing_setting", key="objective", mentions=["--objective"]):
        resolve({k: v for k, v in BASE.items() if k != "objective"})


def test_no_yaml_no_file_no_mapping_and_a_repeated_key(tmp_path):
    file = tmp_path / "run.yaml"
    with raises(ConfigError, "no_such_path", key="config", mentions=[str(file)]):
        resolve(file)
    for text, code, key, mentions in [
        ("a: [", "not_yaml", "config", [f"{file}:1"]),
        ("- a\n", "wrong_type", "config", [str(file), "list"]),
        ("model: a\nmodel: b\n", "duplicate", "model", [f"{file}:2"]),
    ]:
        file.write_text(text)
        with raises(ConfigError, code, key=key, mentions=mentions):
            resolve(file)


def test_an_override_without_a_value_is_refused():
    with raises(ConfigError, "not_key_value", mentions=["beta"]):
        parse_overrides(["beta"])


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("training.learning_rate=1e-3", 1e-3),
        ("learning_rate=0.2", 0.2),
        ("data.ignore=[x, y]", ("x", "y")),
        ("model.gradient_checkpointing=true", True),
        ("training.max_steps=", None),
        ("data.subset=2023", "2023"),
        ("data.revision=12e45678", "12e45678"),
        ("data.revision=2024-01-31", "2024-01-31"),
        ("data.subset=2024-13-01", "2024-13-01"),
        ("data.subset=true", "true"),
        ("data.cache=false", False),
        ("data.cache=7", "7"),
        ("model.lora.target_modules=[q_proj]", ("q_proj",)),
        ("reference.store=a: b: c", "a: b: c"),
        ("output=2024", Path("2024")),
        ("model=7", "7"),
    ],
)
def test_an_override_is_read_as_yaml_where_the_setting_is_no_text(pair, value):
    given = parse_overrides([pair])
    if pair.startswith("model.lora"):
        given["model.lora.r"] = 4
    (key,) = parse_overrides([pair])
    found = resolve({**BASE, "data": {"train": "d.jsonl", "cache_limit": 20.0}}, **given)
    for name in {"model": "model.path", "learning_rate": "training.learning_rate"}.get(key, key).split("."):
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value)


def test_an_override_of_the_objective_is_a_number_or_a_mapping():
    assert resolve(BASE, **parse_overrides(["beta=0.2"])).objective["beta"] == 0.2
    given = parse_overrides(["objective={name: ipo, tau: 0.3}"])
    assert resolve(BASE, **given).objective == {"name": "ipo", "tau": 0.3}


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"objective": "simpo", "objective.gamma_beta_ratio": 0.5},
        {"model.lora.r": 8, "data.ignore": ["a", "b"], "training.trackers": ["tensorboard"], "reference": "base"},
    ],
)
def test_resolved_settings_read_back_to_the_same(tmp_path, overrides):
    settings = resolve(BASE, **overrides)
    file = tmp_path / "resolved.yaml"
    file.write_text(yaml.safe_dump(to_plain(settings)))
    assert resolve(file) == settings


@pytest.mark.parametrize(
    ("override", "code", "key"),
    [
        ("training.batch_size=true", "wrong_type", "training.batch_size"),
        ("training.learning_rate=true", "wrong_type", "training.learning_rate"),
        ("training.max_grad_norm=false", "wrong_type", "training.max_grad_norm"),
        ("model.lora.r=true", "wrong_type", "model.lora.r"),
        ("data.cache_limit=true", "wrong_type", "data.cache_limit"),
        (f"training.batch_size={10**30}", "out_of_range", "training.batch_size"),
        (f"data.limit={2**63}", "out_of_range", "data.limit"),
        ("training.seed=-1", "negative", "training.seed"),
        ("evaluation.seed=-1", "negative", "evaluation.seed"),
        ("data.eval_seed=-1", "negative", "data.eval_seed"),
        ("model.lora.seed=-1", "negative", "model.lora.seed"),
        ("output.folder=x", "wrong_type", "output"),
    ],
)
def test_what_is_no_number_or_seed(override, code, key):
    with raises(ConfigError, code, key=key):
        resolve(BASE, **parse_overrides([override]))


def test_what_looks_like_them_and_is_allowed():
    found = resolve(BASE, **parse_overrides(["data.cache=true", "lora=true", "training.seed=0"]))
    assert (found.data.cache, found.training.seed) == (True, 0)
    assert found.model.lora is not None


def test_all_names_of_a_choice_are_listed():
    with raises(ConfigError, "unknown_name", key="model.layout", mentions=["auto", "shared", "packed", "padded"]):
        resolve(BASE, **{"model.layout": "x"})


@pytest.mark.parametrize(
    ("objective", "key", "mentions", "silent_on"),
    [
        ("ipo", "bet", ["tau"], "subset"),
        ("sft", "beta", ["sft"], "subset"),
        ("dpo", "bta", ["'beta'"], "data."),
        ("dpo", "learning_rat", ["'learning_rate'"], "beta"),
        ("dpo", "outputs", ["'output'"], "beta"),
    ],
)
def test_only_near_names_are_suggested(objective, key, mentions, silent_on):
    """Of the objective first; where nothing is near, what the objective takes is listed."""
    with raises(ConfigError, "unknown_setting", key=key, mentions=mentions) as error:
        resolve({**BASE, "objective": objective}, **{key: 1})
    assert silent_on not in str(error.value)


@pytest.mark.parametrize("name", ["trl:online_dpo", "nash_md", "xpo"])
def test_online_methods_are_refused_by_what_they_are(name):
    with raises(ConfigError, "no_method", key="objective.name", mentions=[name]):
        resolve({**BASE, "objective": name})


def test_an_override_that_the_command_does_not_read():
    reads = ("model", "training.max_tokens")
    assert resolve({**BASE, "training": {"seed": 1}}, {}, reads, max_tokens=9).training.max_tokens == 9
    for override, key in (({"training.seed": 1}, "training.seed"), ({"batch_size": 1}, "training.batch_size"),
                          ({"training": {"seed": 1}}, "training.seed"), ({"data": "other"}, "data.train")):  # fmt: skip
        with raises(ConfigError, "no_effect", key=key):
            resolve(BASE, {}, reads, **override)
