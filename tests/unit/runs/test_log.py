"""The log file of a run."""

import logging

import pytest

from tiltlm.runs import run_log
from tiltlm.runs.log import append_error

LOG = logging.getLogger("tiltlm.part")


def messages(folder) -> list[str]:
    """Return level and text of each line of the file."""
    return [line.split(maxsplit=2)[2] for line in (folder / "log.txt").read_text().splitlines()]


def test_it_has_what_was_logged_before_the_folder_was_there_and_details(tmp_path):
    with run_log() as log:
        LOG.debug("layout")
        log.write_to(tmp_path)
        assert messages(tmp_path) == ["DEBUG   layout"]
        LOG.info("rows: \ud800")
    LOG.warning("after the run")
    assert messages(tmp_path) == ["DEBUG   layout", "INFO    rows: ?"]
    with run_log() as log:
        LOG.info("resumed")
        log.write_to(tmp_path)
    assert messages(tmp_path)[2:] == ["INFO    resumed"]


def test_a_run_without_folder_leaves_nothing_and_a_folder_without_rights_stops_nothing(tmp_path):
    with run_log() as log:
        LOG.info("a")
        log.write_to(tmp_path / "no such folder")
        LOG.info("b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO, logging.WARNING])
def test_the_program_around_it_gets_what_it_would_get_without(caplog, level):
    caplog.set_level(level)
    caplog.handler.setLevel(logging.NOTSET)

    def log_all() -> list[str]:
        caplog.clear()
        for name in ("debug", "info", "warning"):
            getattr(LOG, name)(name)
        return [record.message for record in caplog.records]

    without = log_all()
    with run_log():
        assert log_all() == without
    assert log_all() == without
    assert len(without) == 3 - (level > logging.DEBUG) - (level > logging.INFO)


def test_the_error_that_ends_a_command_is_the_last_line(tmp_path):
    with run_log() as log:
        log.write_to(tmp_path)
        LOG.info("a")
    append_error("no such file")
    assert messages(tmp_path) == ["INFO    a", "ERROR   no such file"]


def test_an_error_does_not_bring_back_a_run_that_was_removed(tmp_path):
    with run_log() as log:
        log.write_to(tmp_path)
        LOG.info("a")
    (tmp_path / "log.txt").unlink()
    append_error("no such file")
    assert list(tmp_path.iterdir()) == []
