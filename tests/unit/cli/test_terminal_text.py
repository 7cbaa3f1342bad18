"""Texts of data, models and file names reach a terminal inert: nothing is obeyed, nothing is hidden."""

import json
import logging
import unicodedata
from types import SimpleNamespace

import pytest
from rich.console import Console

import tiltlm
from support.terminal_texts import ESCAPES, UNSEEN
from tiltlm.cli import chat
from tiltlm.cli.check_text import print_check
from tiltlm.cli.commands import print_result
from tiltlm.cli.console import print_error, start_logging
from tiltlm.cli.preview_text import print_preview
from tiltlm.cli.summary_text import print_summary
from tiltlm.core.notes import printable_json
from tiltlm.data.token_preview import Piece, Preview

BAD = "".join({**ESCAPES, **UNSEEN}.values())
JOINERS = "\n\t\u200c\u200d\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u08e2"
"""Line ends, and what letters and emoji of some scripts need."""


def is_inert(text: str) -> bool:
    """Return whether a terminal prints a text as it is."""
    return all(one in JOINERS or unicodedata.category(one) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for one in text)


def shown(call, *arguments) -> str:
    """Return what a function prints on a console without colours."""
    console = Console(width=200, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        call(*arguments, console)
    return capture.get()


def test_a_preview():
    pieces = (Piece(BAD, 3, "prompt"), Piece("good", 4, "response"))
    preview = Preview(id=BAD, prompt=pieces, responses=(pieces,), titles=(BAD,), notes=(BAD,))
    text = shown(print_preview, [preview])
    assert is_inert(text)
    assert text.count("␛") >= 5


def test_a_summary():
    text = shown(print_summary, SimpleNamespace(summary=lambda: f"{BAD}\n\n{BAD}"))
    assert is_inert(text)
    assert "␛" in text


def test_a_check(tmp_path):
    path = tmp_path / f"{BAD.replace('/', '').replace(chr(0), '').encode('utf-8', 'ignore').decode()[:40]}.jsonl"
    rows = [{"prompt": f"q{i}{BAD}", "chosen": f"a{BAD}", "rejected": f"a{BAD}"} for i in range(3)]
    path.write_text(
        "".join(json.dumps(row) + "\n" for row in rows) + f'{{"{BAD}"\n'.replace("\ud83d", ""), "utf-8", "replace"
    )
    result = tiltlm.check(data=path, progress=False)
    assert result.findings
    assert is_inert(shown(print_check, result))


def test_errors_and_log_lines(capsys):
    print_error(BAD)
    start_logging()
    logging.getLogger("tiltlm.data").warning("row %s", BAD)
    said = capsys.readouterr().err
    assert is_inert(said)
    assert said.count("␛") >= 2


def test_json_is_inert_and_means_the_same(capsys):
    value = {"text": BAD, BAD: ["ü", "\U0001f600", 1.5, None]}
    text = printable_json(value)
    assert is_inert(text)
    assert json.loads(text) == value
    assert "ü" in text
    print_result(SimpleNamespace(prints_json=True, to_dict=lambda: value))
    assert json.loads(capsys.readouterr().out) == value


class Speaker:
    """A conversation whose answers try to command the terminal."""

    name = BAD
    has_template = True

    def answer(self, prompt: str) -> str:
        """Return the answer."""
        return BAD

    def reset(self) -> None:
        """Start again."""


@pytest.mark.parametrize("is_terminal", [True, False])
def test_answers_to_lines(monkeypatch, capsys, is_terminal):
    """A file gets the answers as they are."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: is_terminal, raising=False)
    monkeypatch.setattr(Speaker, "answer", lambda *_: BAD.encode("utf-8", "ignore").decode())
    chat.answer_lines([Speaker()], iter(["hello\n"]))
    assert is_inert(capsys.readouterr().out) == is_terminal


def test_a_chat(monkeypatch):
    answers = iter(["hello", "/quit"])
    monkeypatch.setattr("builtins.input", lambda _: next(answers))
    text = shown(chat.talk, [Speaker()])
    assert "␛" in text
    assert is_inert(text)
