"""What a terminal shows while a command runs: the bar, and log lines above it."""

import logging
import os
import subprocess
import sys
import time

import pytest
from rich.console import Console

from support.made_up_reports import quick
from support.screen import Terminal, screen, stderr_on_a_terminal
from tiltlm.cli import console
from tiltlm.cli.summary_text import print_summary
from tiltlm.recipes.progress import show_progress


@pytest.fixture
def own_logging():
    """Restore the logger of tiltlm afterwards."""
    log = logging.getLogger("tiltlm")
    before = log.handlers[:], log.level, log.propagate
    yield log
    log.handlers[:], log.level, log.propagate = before


def test_the_screen_is_what_a_terminal_would_show():
    assert screen("ab\r\ncd\x1b[2K\r\x1b[1Axy") == ["xy", ""]
    assert screen("abc\rx\x1b[31my\x1b[0m") == ["xyc"]


def test_log_lines_stand_above_the_bar_and_the_bar_is_gone_at_the_end(monkeypatch, own_logging):
    with stderr_on_a_terminal(monkeypatch) as found:
        console.start_logging()
        with show_progress() as draw:
            draw("load", 0, 0)
            late = logging.StreamHandler()  # a library that is imported under the display makes such a handler
            for step in range(1, 4):
                draw("train", step, 4, loss=0.5)
                own_logging.info("line %d", step)
                time.sleep(0.15)  # the bar is drawn again
            late.handle(logging.makeLogRecord({"msg": "from a library"}))
            own_logging.info("long " * 40)
            print("printed", file=sys.stderr)
            draw("train", 4, 4, loss=0.5)
        print("after", file=sys.stderr)
    (output,) = found
    assert "train" in output
    assert "3/4" in output
    lines = screen(output)
    assert lines[:4] == ["line 1", "line 2", "line 3", "from a library"]
    assert " ".join(lines[4:7]).split() == ["long"] * 40
    assert [line for line in lines[7:] if line] == ["printed", "after"]


def test_details_are_printed_on_request(capsys, own_logging):
    console.start_logging()
    own_logging.debug("layout")
    console.show_details()
    own_logging.debug("digest")
    assert capsys.readouterr().err == "digest\n"


BEFORE_HEAVY_IMPORTS = """
import os, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "transformers", "numpy", "datasets"):
            os._exit(7)
sys.meta_path.insert(0, Finder())
sys.argv = ["tiltlm", "train", "--model", "m", "--data", "d", "--objective", "dpo", "--output", "o"]
from tiltlm.cli.main import main
main()
"""


def test_something_is_on_the_screen_before_anything_heavy_is_imported():
    terminal = Terminal()
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")} | {"TERM": "xterm"}
    done = subprocess.run(
        [sys.executable, "-c", BEFORE_HEAVY_IMPORTS], stderr=terminal.fd, env=environment, check=False
    )
    assert done.returncode == 7
    assert any("check the settings" in line for line in screen(terminal.output()))


@pytest.mark.parametrize("no_color", [False, True])
def test_an_error_is_red_where_the_terminal_has_colours(monkeypatch, no_color):
    with stderr_on_a_terminal(monkeypatch) as found:
        if no_color:
            monkeypatch.setenv("NO_COLOR", "1")
        console.print_error("a [b] c " * 30)
    (output,) = found
    assert ("\x1b[1;31m" in output) is not no_color
    assert "\x1b[" not in output.partition("error: ")[2].partition("\x1b[0m")[2]
    assert "a [b] c " * 20 in output


class Finished:
    """A finished run, as far as its summary goes."""

    def __init__(self, report):
        self.report = report

    def summary(self) -> str:
        return "Verdict\nA sentence that is longer than forty characters.\n\nreport  a/very/long/path/" + "x" * 60


def test_a_summary_wraps_words_but_no_path_on_a_terminal(capsys):
    print_summary(Finished(quick()), Console(width=40, force_terminal=True, color_system=None))
    assert capsys.readouterr().out.splitlines() == [
        "Verdict",
        "A sentence that is longer than forty ",
        "characters.",
        "",
        "report  a/very/long/path/" + "x" * 60,
    ]
    print_summary(Finished(quick()))
    assert capsys.readouterr().out == Finished(None).summary() + "\n"
