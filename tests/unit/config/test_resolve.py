"""Defaults < file < command line; unknown keys refused with place and way out; resolved settings read back."""

from pathlib import Path

import pytest
import yaml

from tiltlm.config import parse_overrides, resolve, to_yaml
from tiltlm.core import ConfigError

BASE = {"model": "m", "data": "d.jsonl", "objective": "dpo", "output": "out"}


def test_bare_values_stand_for_the_main_key():
    settings = resolve(BASE)
    assert settings.model.path == "m"
    assert settings.data.train == "d.jsonl"
    assert settings.objective == {"name": "dpo", "beta": 0.1}
    assert settings.output == Path("out")


def test_the_command_line_goes_before_the_file(tmp_path):
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
    with pytest.raises(ConfigError, match=r"seed is a key of training and evaluation; write training\.seed"):
        resolve(BASE, seed=3)


def test_lora_can_be_just_switched_on():
    assert resolve(BASE).model.lora is None
    assert resolve(BASE, **{"model.lora": True}).model.lora.r == resolve(BASE, **{"model.lora.r": 16}).model.lora.r
    assert resolve(BASE, **{"model.lora.r": 4}).model.lora.r == 4
    assert resolve({**BASE, "model": {"path": "m", "lora": False}}).model.lora is None


@pytest.mark.parametrize(
    ("section", "text", "message"),
    [
        ("objective", "  name: dpo\n  bta: 0.2\n", r"run\.yaml:7: objective\.bta: dpo does not use it.*'beta'"),
        ("objective", "  name: dpoo\n", r"run\.yaml:6: objective\.name: no objective 'dpoo'; did you mean 'dpo'"),
        ("objective", "  name: orpo\n  beta: 0.1\n", r"run\.yaml:7: objective\.beta: orpo does not use it"),
        ("objective", "  beta: 0.1\n", r"name is missing"),
        ("training", "  learning_rat: 1\n", r"run\.yaml:6: training\.learning_rat: no such.*'learning_rate'"),
        ("training", "  batch_size: many\n", r"run\.yaml:6: training\.batch_size is 'many'"),
        ("training", "  batch_size: 0\n", r"training\.batch_size is 0; it must be at least 1"),
        ("trainig", "  seed: 1\n", r"run\.yaml:5: no section 'trainig'"),
    ],
)
def test_a_mistake_in_a_file_is_named_with_its_line(tmp_path, section, text, message):
    file = tmp_path / "run.yaml"
    base = {k: v for k, v in BASE.items() if k != section}
    base.setdefault("objective", "dpo") if section != "objective" else base.setdefault("training", {"seed": 0})
    lines = [f"{k}: {v}" for k, v in base.items()][:4]
    file.write_text("\n".join(lines[: 4 - lines.count("")]) + f"\n{section}:\n{text}")
    offset = len(lines) + 1
    message = message.replace("yaml:5", f"yaml:{offset}").replace("yaml:6", f"yaml:{offset + 1}")
    message = message.replace("yaml:7", f"yaml:{offset + 2}")
    with pytest.raises(ConfigError, match=message):
        resolve(file)


def test_a_missing_section_says_how_to_give_it():
    with pytest.raises(ConfigError, match="objective is missing: give --objective"):
        resolve({k: v for k, v in BASE.items() if k != "objective"})


def test_no_yaml_no_file_no_mapping_and_a_repeated_key(tmp_path):
    file = tmp_path / "run.yaml"
    with pytest.raises(ConfigError, match="no such configuration file"):
        resolve(file)
    for text, message in [
        ("a: [", r"run\.yaml:\d: not YAML"),
        ("- a\n", "holds list"),
        ("model: a\nmodel: b\n", r"run\.yaml:2: model is set twice"),
    ]:
        file.write_text(text)
        with pytest.raises(ConfigError, match=message):
            resolve(file)


def test_an_override_without_a_value_is_refused():
    with pytest.raises(ConfigError, match="key=value"):
        parse_overrides(["beta"])


def test_overrides_read_as_yaml():
    assert parse_overrides(["a=0.2", "b=[x, y]", "c=true", "d=1e-3", "e=a: b: c", "f="]) == {
        "a": 0.2, "b": ["x", "y"], "c": True, "d": 1e-3, "e": "a: b: c", "f": None,
    }  # fmt: skip


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
    file.write_text(to_yaml(settings))
    assert resolve(file) == settings
