"""Schema, Python call and command line of any recipe follow from its settings dataclass and one function."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import typer
from typer.testing import CliRunner

from support.errors import raises
from tiltlm.cli.commands import run_function
from tiltlm.config.command import Command, command
from tiltlm.config.resolve import Config, resolve
from tiltlm.config.schema import Schema
from tiltlm.core import ConfigError
from tiltlm.objectives import Spec
from tiltlm.recipes.run_settings import RunSettings


@dataclass(frozen=True)
class JudgeSettings:
    name: str
    temperature: float = 0.0


@dataclass(frozen=True)
class DebateSettings:
    """Settings of a command that tiltlm does not have."""

    judge: JudgeSettings
    loss: Spec = field(default_factory=lambda: {"name": "sft"})
    num_rounds: int = 3
    language: Literal["en", "de"] = "en"
    folder: Path = Path(".")


def debate(config: Config = None, /, *, loud: bool = False, weight: float = 0.5, **settings: Any) -> dict[str, Any]:
    """Let two policies argue.

    It prints who won.

    Args:
        config: A YAML file.
        loud: Print
            every round.
        weight: A number.
        **settings: Overrides.

    Returns:
        Everything.
    """
    found = resolve(DebateSettings, config, **settings)
    return {
        "judge": [found.judge.name, found.judge.temperature],
        "loss": found.loss,
        "rounds": found.num_rounds,
        "language": found.language,
        "folder": str(found.folder),
        "options": [loud, weight],
    }


@pytest.fixture
def run(tmp_path):
    app = typer.Typer()
    app.command("debate")(run_function(Command(debate, ("model",), None)))
    app.command("other")(lambda: None)
    runner = CliRunner()
    return lambda *arguments: runner.invoke(app, ["debate", *arguments])


def test_the_command_line_of_a_new_command(run, tmp_path):
    file = tmp_path / "a=b.yaml"
    file.write_text("judge: strict\nnum_rounds: 5\n")
    result = run(str(file), "temperature=0.5", "language=de", "folder=7", "loss={name: dpo}", "--loud")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {
        "judge": ["strict", 0.5],
        "loss": {"name": "dpo", "beta": 0.1},
        "rounds": 5,
        "language": "de",
        "folder": "7",
        "options": [True, 0.5],
    }


def test_help_comes_from_the_docstring(run):
    text = " ".join(run("--help").output.split())
    assert "Let two policies argue. It prints who won." in text
    assert "Print every round." in text
    assert "Everything" not in text


@pytest.mark.parametrize(
    ("given", "code", "key"),
    [
        ({}, "missing_setting", "judge"),
        ({"judge": {}}, "missing_setting", "judge.name"),
        ({"judge": "x", "num_rounds": "many"}, "wrong_type", "num_rounds"),
        ({"judge": "x", "language": "fr"}, "unknown_name", "language"),
        ({"judge": "x", "temperatur": 1.0}, "unknown_setting", "temperatur"),
        ({"judge": "x", "judge.nam": 1.0}, "unknown_setting", "judge.nam"),
        ({"judge": "x", "loss": "dpoo"}, "unknown_name", "objective.name"),
    ],
)
def test_errors_of_a_new_command(given, code, key):
    with raises(ConfigError, code, key=key):
        debate(None, **given)


def test_a_command_is_registered_under_its_name(monkeypatch):
    monkeypatch.setattr("tiltlm.config.command.COMMANDS", found := {})
    assert command("model")(debate) is debate
    assert found["debate"].options == ("model",)
    assert found["debate"].helps["loud"] == "Print every round."


def test_the_main_key_of_a_section_is_its_first_if_that_is_text():
    schema = Schema(RunSettings)
    found = {section: schema.main_key(section) for section in schema.sections}
    assert found == {
        "model": "path",
        "data": "train",
        "objective": "name",
        "output": None,
        "reference": "name",
        "training": None,
        "evaluation": None,
        "engine": "name",
    }
