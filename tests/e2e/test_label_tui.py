"""`tiltlm label tui` on a real terminal: keys in, bytes out, votes in the database."""

import re
import subprocess
import sys
import time

import pytest

from support.errors import raises
from support.real_terminal import on_terminal
from support.terminal_app import saved
from support.terminal_texts import ESCAPES, MARKUP, UNSEEN
from tiltlm import label_tui
from tiltlm.core import ConfigError
from tiltlm.labeling.project import ProjectSettings
from tiltlm.labeling.store.database import writing
from tiltlm.labeling.store.pairs import NewPair, add_pairs
from tiltlm.labeling.store.projects import Project, create_project
from tiltlm.labeling.terminal.keys import MIN_SHOWN

NEVER = ["]0;", "]2;PWNED", "]52;", "]8;", "P$q", "(0", "c", "_G", "[5i", "[8;5;5t", "[0;0;0!z", "[?2004l\x1b[31m"]
"""What follows the escape character in texts of the test, and never in what the app writes of its own."""


@pytest.fixture
def project(tmp_path) -> Project:
    made = create_project(str(tmp_path / "label.db"), ProjectSettings(overlap=1, repeat_share=0))
    texts = list({**ESCAPES, **UNSEEN, **MARKUP}.values())
    everything = "\n".join(texts)
    with writing(made.engine) as connection:
        add_pairs(
            connection,
            made.settings,
            [NewPair(f"{number} {everything}", f"a {everything}", f"b {everything}") for number in range(4)],
        )
    yield made
    made.close()


def test_votes_at_a_terminal_and_a_sudden_end(project, tmp_path):
    arguments = ("label", "tui", "--database", str(tmp_path / "label.db"), "--as", "ann")

    def vote(terminal, keys, number):
        time.sleep(MIN_SHOWN + 0.1)  # the app ignores keys that come sooner
        terminal.send(keys)
        terminal.until(lambda: len(saved(project)) == number)

    with on_terminal(*arguments) as terminal:
        terminal.sees("Guidelines")
        terminal.send("\r")
        terminal.sees("4 left")
        vote(terminal, "1", 1)
        vote(terminal, "\x1b[C", 2)  # arrow to the right
        terminal.kill()  # what was voted is in the database
        first = terminal.output
    assert [row[1] for row in saved(project)] == ["vote", "vote"]

    with on_terminal(*arguments, size=(120, 30)) as terminal:
        terminal.sees("2 left")
        vote(terminal, "b", 3)
        vote(terminal, "u", 4)
        vote(terminal, "0", 5)
        terminal.send("rrdp")
        terminal.sees("user:")
        terminal.send("\x03")  # Ctrl-C
        assert terminal.wait() == 0
        output = terminal.output
    end = output.rpartition(b"\x1b[?1049l")[2].decode()  # the other screen is left
    assert "ann: 2 votes, 1 taken back, 1 pair left; saved in " in end
    assert [row[2] for row in saved(project, "choice")][2:] == ["both_bad", None, "tie"]
    journal = (tmp_path / "label.events.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(journal) == 5
    for written in (first, output):
        assert "␛]0;PWNED".encode() in written
        for code in NEVER:
            assert b"\x1b" + code.encode() not in written, code
        assert "\x9b".encode() not in written
        assert "\u202e".encode() not in written
        pointers = rb"\x1b\]22;[a-z]*\x07"  # the library sets the shape of the mouse's pointer
        assert b"\x07" not in re.sub(pointers, b"", written)


def test_without_a_terminal_it_says_so(tmp_path):
    start = "from tiltlm.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", start, "label", "tui"], cwd=tmp_path, capture_output=True, text=True, input=""
    )
    assert done.returncode == 2
    assert "terminal" in done.stderr
    with raises(ConfigError, "no_terminal"):
        label_tui(database=str(tmp_path / "label.db"))


def test_an_error_comes_before_the_screen(tmp_path):
    with on_terminal("label", "tui", "--database", str(tmp_path / "none.db"), "--as", "ann") as terminal:
        assert terminal.wait() == 2
        assert b"error: " in terminal.output
        assert b"\x1b[?1049h" not in terminal.output
