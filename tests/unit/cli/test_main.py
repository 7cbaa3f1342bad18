"""The end of a command: one message and an exit code for what is no defect of ours, and signals."""

import errno
import os
import signal

import pytest

from support.errors import raises
from tiltlm.cli import main as program
from tiltlm.core import ConfigError


@pytest.fixture
def run(monkeypatch):
    """Return a function that runs the program where the command raises an error, and returns its exit code."""
    before = [signal.getsignal(signum) for signum in program.SIGNALS]
    monkeypatch.setattr("sys.argv", ["tiltlm", "objectives"])

    def end(error):
        def fail():
            raise error

        monkeypatch.setattr(program, "app", fail)
        with pytest.raises(SystemExit) as stopped:
            program.main()
        return stopped.value.code

    yield end
    for signum, handler in zip(program.SIGNALS, before, strict=True):
        signal.signal(signum, handler)


@pytest.mark.parametrize(
    ("error", "exit_code", "mentions"),
    [
        (ConfigError("beta is -1", code="not_positive"), 2, ["beta is -1"]),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/full/disk"), 1, ["/full/disk"]),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/secret"), 1, ["/secret"]),
    ],
)
def test_one_message_and_no_traceback(run, capsys, error, exit_code, mentions):
    assert run(error) == exit_code
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert all(text in line for text in mentions)


def test_a_wrong_command_line_of_several_processes_is_an_error_that_one_of_them_prints(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["tiltlm", "train", "--nonsense"])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with raises(ConfigError, "usage", mentions=["--nonsense", "train -h"]):
        program.run_app()
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(SystemExit) as stopped:
        program.run_app()
    assert stopped.value.code == ConfigError.exit_code
    printed = capsys.readouterr().err
    assert printed.count("--nonsense") == 1


def test_a_defect_shows_its_traceback(monkeypatch):
    def fail():
        raise KeyError("lost")

    monkeypatch.setattr(program, "app", fail)
    monkeypatch.setattr("sys.argv", ["tiltlm", "objectives"])
    monkeypatch.setattr(signal, "signal", lambda signum, handler: None)
    with pytest.raises(KeyError):
        program.main()


def test_a_second_signal_ends_the_process_at_once(monkeypatch):
    handlers, ends = {}, []
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    monkeypatch.setattr(os, "_exit", ends.append)
    with pytest.raises(SystemExit) as stopped:
        program.stop(signal.SIGTERM, None)
    assert stopped.value.code == 143
    handlers[signal.SIGINT](signal.SIGINT, None)
    assert ends == [130]
