"""The command line: arguments, help, completion. No command is run here."""

import os
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from support.errors import raises
from tiltlm.cli.commands import split_arguments
from tiltlm.cli.main import app
from tiltlm.config.command import COMMANDS, GROUPS, OPTIONS
from tiltlm.core import ConfigError

START = "from tiltlm.cli.main import main; main()"
HEAVY = "{'torch', 'transformers', 'numpy', 'rich', 'datasets', 'matplotlib', 'tiltlm.core'}"
"""Typer itself imports pydantic for what a command's options say; `tiltlm --help` must do without that too."""


def test_the_file_is_the_first_argument_that_is_no_override(tmp_path):
    file = tmp_path / "beta=0.1.yaml"
    file.write_text("")
    assert split_arguments([]) == (None, [])
    assert split_arguments(["a=1", "b=2"]) == (None, ["a=1", "b=2"])
    assert split_arguments(["run.yaml", "a=1"]) == ("run.yaml", ["a=1"])
    assert split_arguments([str(file), "a=1"]) == (str(file), ["a=1"])
    assert split_arguments(["a.yaml", "b.yaml"]) == ("a.yaml", ["b.yaml"])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_help_text(name):
    result = CliRunner().invoke(app, [*name.split(), "--help"])
    assert result.exit_code == 0
    made = typer.main.get_command(app)
    for word in name.split():
        made = made.commands[word]
    for parameter in made.params:
        assert parameter.help, f"{name} {parameter.name}"
    assert set(COMMANDS[name].options) <= set(OPTIONS)


@pytest.mark.parametrize("words", [[], *([group] for group in GROUPS)])
def test_a_summary_fits_into_the_list_of_commands(words):
    listed = CliRunner().invoke(app, [*words, "--help"]).output.partition("Commands:")[2]
    assert listed.strip()
    assert "..." not in listed


def test_a_group_is_one_line_and_lists_its_commands():
    top = CliRunner().invoke(app, ["--help"]).output
    assert GROUPS["label"] in top
    assert "invite" not in top.partition("Commands:")[2].split()
    assert "invite" in CliRunner().invoke(app, ["label", "--help"]).output.partition("Commands:")[2].split()


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        (["--help"], {}, "quickstart"),
        (["train", "--help"], {}, "--resume"),
        (["label", "--help"], {}, "invite"),
        (["label", "invite", "--help"], {}, "--revoke"),
        ([], {"COMP_WORDS": "tiltlm tr", "COMP_CWORD": "1"}, "train"),
        ([], {"COMP_WORDS": "tiltlm score --per", "COMP_CWORD": "2"}, "--per-example"),
        ([], {"COMP_WORDS": "tiltlm label inv", "COMP_CWORD": "2"}, "invite"),
    ],
)
def test_help_and_completion_import_nothing_heavy(arguments, environment, expected):
    code = (
        "import sys; sys.argv = ['tiltlm', *sys.argv[1:]]\n"
        "from tiltlm.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as stop: code = stop.code\n"
        f"heavy = {HEAVY} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    completing = {"_TILTLM_COMPLETE": "complete_bash"} if environment else {}
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | environment | completing,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert expected in result.stdout


def test_completion_can_be_shown():
    result = subprocess.run(
        [sys.executable, "-c", START, "--show-completion", "bash"],
        env=os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "complete" in result.stdout


def test_the_version_is_the_installed_one():
    import tiltlm

    assert CliRunner().invoke(app, ["--version"]).output.strip() == tiltlm.__version__


def test_an_option_that_is_written_as_a_setting_is_refused():
    with raises(ConfigError, "unknown_setting", key="rows", mentions=["--rows"]):
        CliRunner().invoke(app, ["preview", "pairs.jsonl", "rows=2"], catch_exceptions=False)


def test_a_setting_that_may_be_left_out_can_be_switched_on_and_off(monkeypatch):
    given = []
    monkeypatch.setattr("tiltlm.recipes.labeling.serving.label", lambda request, **_: given.append(request.prepare))
    for words in ([], ["--ties"], ["--no-ties", "--no-strength"]):
        CliRunner().invoke(app, ["label", "serve", *words], catch_exceptions=False)
    assert [dict(one.settings) for one in given] == [{}, {"ties": True}, {"ties": False, "strength": False}]
