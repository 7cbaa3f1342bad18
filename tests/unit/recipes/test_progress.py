"""Progress in a file, in a notebook and on a terminal, or none; other libraries are quiet meanwhile."""

import sys
import types
from contextlib import suppress

import datasets
import pytest
import transformers

from support.screen import screen, stderr_on_a_terminal
from tiltlm.recipes import progress


def test_a_file_gets_a_line_a_stage_and_the_last_state(capsys):
    with progress.show_progress() as draw:
        draw("load", 0, 0)
        draw("load", 0, 0)
        for step in range(1, 4):
            draw("train", step, 3, loss=0.25)
    load, train = capsys.readouterr().err.splitlines()
    assert load == "load"
    assert train.startswith("train 3/3 · ")
    assert train.endswith("loss 0.25")
    assert "\x1b" not in load + train


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.42, "0.4 s"), (12.3, "12 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_a_duration_is_what_people_say(seconds, text):
    assert progress.duration(seconds) == text


@pytest.mark.parametrize(("rank", "prints"), [("0", True), ("1", False), (None, True)])
def test_rank_0_prints(monkeypatch, rank, prints):
    if rank is None:
        monkeypatch.delenv("RANK", raising=False)
    else:
        monkeypatch.setenv("RANK", rank)
    assert progress.is_first() is prints


@pytest.fixture
def notebook(monkeypatch):
    """Let the code believe that it runs in the kernel of a notebook."""
    shell = types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))


def test_a_notebook_gets_one_line_that_is_empty_at_the_end(notebook, capsys):
    with progress.show_progress() as draw:
        draw("load model and data", 0, 0)
        draw("train", 0, 2)
        draw("train", 2, 2, loss=0.25)
        during = capsys.readouterr()
        assert screen(during.out)[0].startswith("train 2/2 · ")
        assert screen(during.out)[0].endswith("loss 0.25")
        draw("save", 0, 0)
        assert screen(during.out + (more := capsys.readouterr().out)) == ["save"], "nothing of the longer line is left"
    assert screen(during.out + more + capsys.readouterr().out) == [""]
    assert not during.err


def test_a_line_is_not_written_more_often_than_a_reader_sees(notebook, capsys, monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock) / 1000)  # a call takes milliseconds
    with progress.show_progress() as draw:
        for step in range(1, 1001):
            draw("train", step, 1000)
    states = [text for text in capsys.readouterr().out.split("\r") if text.startswith("train")]
    assert len(states) < 40
    assert states[-1].startswith("train 1000/1000")


def test_an_ordinary_shell_is_no_notebook(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: object()))
    assert not progress.in_notebook()
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: None))
    assert not progress.in_notebook()


@pytest.mark.parametrize("off", [False, None])
def test_progress_can_be_switched_off(off, capsys):
    with progress.display(off) as draw:
        draw("train", 1, 1)
        assert draw is progress.silent, "recipes need not compute figures"
    assert capsys.readouterr() == ("", "")


def test_progress_is_shown_or_passed_on(capsys):
    with progress.display(True) as draw:
        draw("train", 1, 1)
    assert capsys.readouterr().err.startswith("train 1/1")
    calls = []
    with progress.display(lambda *state, **figures: calls.append((state, figures))) as draw:
        draw("train", 1, 1, loss=0.5)
    assert calls == [(("train", 1, 1), {"loss": 0.5})]
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_and_keeps_nothing(monkeypatch):
    with stderr_on_a_terminal(monkeypatch) as found, progress.display(True) as draw:
        draw("train", 1, 2)
    (output,) = found
    assert "train" in output
    assert not any(screen(output))


def library_state():
    log = transformers.utils.logging
    return log.get_verbosity(), log.is_progress_bar_enabled(), datasets.are_progress_bars_disabled()


def test_other_libraries_are_quiet_inside_and_as_before_afterwards():
    log = transformers.utils.logging
    before = library_state()
    try:
        for verbosity, has_bar in ((log.INFO, True), (log.WARNING, False)):
            log.set_verbosity(verbosity)
            (log.enable_progress_bar if has_bar else log.disable_progress_bar)()
            (datasets.enable_progress_bars if has_bar else datasets.disable_progress_bars)()
            with suppress(ZeroDivisionError), progress.quiet_libraries():
                assert library_state() == (log.ERROR, False, True)
                raise ZeroDivisionError
            assert library_state() == (verbosity, has_bar, not has_bar)
    finally:
        log.set_verbosity(before[0])
        (log.enable_progress_bar if before[1] else log.disable_progress_bar)()
        (datasets.disable_progress_bars if before[2] else datasets.enable_progress_bars)()
