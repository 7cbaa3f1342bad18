"""Commands around a run: chat with what it made, its report again, methods of a user's own."""

import shutil

import pytest
from typer.testing import CliRunner

import tiltlm
from support.errors import raises
from tiltlm.cli.chat import talk
from tiltlm.cli.conversation import open_conversation
from tiltlm.cli.main import app
from tiltlm.core import ConfigError, ModelError, RunError
from tiltlm.report.page import render

pytestmark = pytest.mark.usefixtures("blank_figures")
PROMPT = "Guest Ada: Where is my red hat?\nDesk:"


def invoke(*arguments, **more):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], **more)


def test_a_model_answers_the_lines_of_stdin(trained, model):
    lines = "\n".join(
        [PROMPT.replace("\n", "\\n"), "", "Guest Ben: Who took my cup?\\nDesk:", PROMPT.replace("\n", "\\n")]
    )
    options = ("--temperature", 0, "--max-new-tokens", 24)
    alone = invoke("chat", trained.path / "model", *options, input=lines).stdout.splitlines()
    assert len(alone) == 3
    assert alone[0] == alone[2], "a line has no memory"
    policy = tiltlm.load_policy(trained.path / "model")
    ((expected,),) = tiltlm.sample(policy, [PROMPT], max_new_tokens=24, temperature=0).texts
    assert alone[0] == expected
    both = invoke("chat", trained.path / "model", "--beside", model, *options, input=lines).stdout.splitlines()
    assert [line.split("\t")[0] for line in both] == alone
    assert all(len(line.split("\t")) == 2 for line in both)


@pytest.fixture
def chat_model(model, tmp_path):
    """Return a copy of the tiny model with a chat template, whose end token is the model's own."""
    folder = tmp_path / "chat"
    shutil.copytree(model, folder)
    template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}"
        "{% if m.role == 'assistant' %}</s>{% endif %}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    (folder / "chat_template.jinja").write_text(template)
    return folder


def test_a_conversation_is_rendered_with_its_earlier_turns_until_it_is_reset(chat_model):
    first, second = (open_conversation(chat_model, max_new_tokens=8, seed=3) for _ in range(2))
    assert first.has_template
    answers = [first.answer("Hello"), first.answer("And then?")]
    assert [turn["role"] for turn in first.turns] == ["user", "assistant"] * 2
    assert answers[0] == second.answer("Hello")
    assert answers[1] == second.answer("And then?"), "seed and prompts decide"
    first.reset()
    assert first.turns == []
    small = open_conversation(chat_model, max_new_tokens=8)
    with raises(ConfigError, "too_long"):
        small.answer("word " * 2000)
    assert small.turns == [], "a refused prompt is not remembered"


def test_the_terminal_loop_knows_its_commands(chat_model, monkeypatch, capsys):
    conversation = open_conversation(chat_model, max_new_tokens=4, seed=1)
    typed = iter(["Hello", "", "/reset", "word " * 2000, "Hi", "/quit", "never"])
    monkeypatch.setattr("builtins.input", lambda _: next(typed))
    talk([conversation])
    assert next(typed) == "never"
    assert conversation.turns[0]["content"] == "Hi"
    shown = capsys.readouterr()
    assert "/reset" in shown.out
    assert "error: " in shown.err

    def end(_):
        raise EOFError

    monkeypatch.setattr("builtins.input", end)
    talk([conversation])


def test_what_cannot_chat_is_refused(tmp_path):
    with raises(ModelError, "no_such_path", key="MODEL"):
        raise invoke("chat", tmp_path / "nothing", input="a\n").exception
    with raises(ConfigError, "not_positive"):
        raise invoke("chat", tmp_path / "nothing", "--max-new-tokens", 0, input="a\n").exception


def test_a_report_is_made_again_from_what_the_run_holds(trained, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(trained.path, copy, ignore=shutil.ignore_patterns("checkpoints", "model"))
    (copy / "report.html").unlink()
    result = invoke("report", copy)
    assert result.exit_code == 0, result.output
    assert (copy / "report.html").read_text() == render(trained.report)
    (copy / "report.json").unlink()
    steps = str(trained.training.num_steps)
    with raises(RunError, "no_report", mentions=["report.json", steps, "--resume"]):
        raise invoke("report", copy).exception
    with raises(RunError, "no_run"):
        raise invoke("report", tmp_path).exception
