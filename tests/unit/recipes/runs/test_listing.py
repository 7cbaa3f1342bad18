"""Runs are listed with their states; foreign, half-written and damaged folders are tolerated and named."""

import json
import os
import socket
import subprocess
import sys

import pytest

from support.errors import raises
from support.run_folders import CONFIG, REPORT, interval, make_checkpoint, make_run
from tiltlm.core import ConfigError
from tiltlm.recipes.runs import files
from tiltlm.recipes.runs.listing import list_runs
from tiltlm.runs.heartbeat import WRITER


def only(folder):
    (found,) = list_runs([folder])
    return found


def test_a_finished_run_shows_what_it_is_and_what_came_out(tmp_path):
    make_run(tmp_path / "run", ending={"state": "finished"}, report=REPORT)
    (tmp_path / "run" / "bad_steps.jsonl").write_text('{"step": 2}\n')
    run = only(tmp_path)
    assert (run.kind, run.state, run.verdict, run.note) == ("train", "finished", "Yes", "")
    assert (run.objective, run.model, run.data) == ("dpo", "tiny", "pairs.jsonl, more.jsonl")
    assert (run.step, run.progress, run.skipped) == (4, 1.0, 1)
    assert run.numbers["accuracy"].estimate == pytest.approx(0.7)
    assert run.numbers["kl"].high == pytest.approx(2.1)
    text = list_runs([tmp_path]).summary()
    for shown in ("1 run: 1 finished", "70 % (60 to 80)", "2.00 (1.90 to 2.10)", "Yes"):
        assert shown in text


def test_states_follow_the_ending_the_writer_and_the_checkpoints(tmp_path):
    make_run(tmp_path / "old", report=REPORT)  # of a version without a note of its end
    make_run(tmp_path / "failed", ending={"state": "failed", "code": "too_many_bad_steps", "message": "5 in a row"})
    make_checkpoint(make_run(tmp_path / "stopped", ending={"state": "stopped", "message": "by SIGTERM"}), 3)
    live = make_run(tmp_path / "live")
    (live / WRITER).write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": "x"}))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    killed = make_run(tmp_path / "killed", report=REPORT)  # resumed after it had finished, then killed
    (killed / WRITER).write_text(json.dumps({"pid": gone.pid, "host": socket.gethostname(), "since": "x"}))
    found = {run.path.name: run for run in list_runs([tmp_path])}
    states = {name: run.state for name, run in found.items()}
    assert states == {
        "old": "finished", "failed": "failed", "stopped": "stopped", "live": "running", "killed": "stopped",
    }  # fmt: skip
    assert found["failed"].code == "too_many_bad_steps"
    assert "5 in a row" in found["failed"].note
    assert found["stopped"].resumable_at == 3
    assert found["stopped"].command == f"tiltlm train {tmp_path}/stopped/config.yaml --resume"
    assert found["failed"].command == found["live"].command == ""
    assert found["killed"].resumable_at == 0
    assert found["live"].resumable_at is None
    assert found["live"].progress == pytest.approx(0.5)


def test_a_torn_last_line_is_no_damage_and_a_broken_one_is(tmp_path):
    run = make_run(tmp_path / "run", ending={"state": "stopped", "message": "by SIGTERM"})
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    assert (only(tmp_path).state, only(tmp_path).step) == ("stopped", 4)
    with (run / "metrics.jsonl").open("a") as file:
        file.write("\n")
    assert only(tmp_path).state == "damaged"
    assert "metrics.jsonl" in only(tmp_path).note


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", "{"),
        ("config.yaml", "a: [1"),
        ("config.yaml", "just text"),
        ("config.yaml", "\udcff"),
        ("report.json", '{"schema": '),
        ("report.json", "[" * 100_000),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content):
    run = make_run(tmp_path / "run", ending={"state": "finished"}, report=REPORT)
    (run / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    assert only(tmp_path).state == "damaged"
    assert name in only(tmp_path).note


def test_a_short_configuration_with_many_values_is_refused_at_once(tmp_path):
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    run = make_run(tmp_path / "run", ending={"state": "finished"})
    (run / "config.yaml").write_text("\n".join(lines))
    assert only(tmp_path).state == "damaged"


def test_a_checkpoint_of_another_size_does_not_count(tmp_path):
    run = make_run(tmp_path / "run", ending={"state": "stopped", "message": "by SIGTERM"})
    make_checkpoint(run, 2)
    make_checkpoint(run, 4, size=3)
    (run / "checkpoints" / "step-00000002.bak").mkdir()
    assert only(tmp_path).resumable_at == 2
    (run / "checkpoints" / "step-00000002" / "manifest.json").write_text("{}")
    assert only(tmp_path).state == "damaged"


def test_a_run_that_was_killed_before_its_configuration_cannot_be_continued(tmp_path):
    make_run(tmp_path / "run", config=None, steps=0)
    assert (only(tmp_path).state, only(tmp_path).resumable_at) == ("stopped", None)


def test_foreign_folders_are_skipped_and_named(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "run.json").write_text('{"name": "of another program"}')
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "run.json").write_text('{"format": 7, "created": "2030-01-01"}')
    (tmp_path / "binary").mkdir()
    (tmp_path / "binary" / "run.json").write_bytes(b"\xff\x00")
    make_run(tmp_path / "deep" / "er" / "run", ending={"state": "finished"})
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "er" / "run")
    found = list_runs([tmp_path])
    assert [run.path.name for run in found] == ["run"]
    assert {one.path.name for one in found.skipped} == {"notes", "later", "binary", "link"}
    assert "later" in found.summary()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_rights_is_named(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    try:
        assert [one.path.name for one in list_runs([tmp_path]).skipped] == ["closed"]
    finally:
        (tmp_path / "closed").chmod(0o700)


def test_nothing_is_changed(tmp_path):
    make_checkpoint(make_run(tmp_path / "run", report=REPORT), 3)

    def state() -> dict:
        return {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in tmp_path.rglob("*")}

    before = state()
    list_runs([tmp_path])
    assert state() == before


def test_a_study_has_a_row_of_its_own(tmp_path):
    make_run(tmp_path / "sweep" / "0", ending={"state": "finished"}, report=REPORT)
    make_run(tmp_path / "sweep" / "1", ending={"state": "failed", "message": "no"})
    (tmp_path / "sweep" / "comparison.json").write_text('{"headline": "Best: 0."}')
    (study,) = [run for run in list_runs([tmp_path]) if run.kind == "sweep"]
    assert (study.state, len(study.runs), study.sentence, study.objective) == ("failed", 2, "Best: 0.", "dpo")


def test_a_loop_is_one(tmp_path):
    run = make_run(tmp_path / "loop", ending={"state": "finished"}, config={**CONFIG, "loop": {"rounds": 3}})
    cards = [{"round": n, "reward": interval(n), "kl": interval(n), "held_out": None} for n in range(3)]
    (run / "loop.json").write_text(json.dumps({"cards": cards, "sentences": ["It rose."]}))
    found = only(tmp_path)
    assert (found.kind, found.numbers["reward"].estimate, found.sentence) == ("loop", 2, "It rose.")
    assert set(found.numbers) == {"reward", "kl"}


def test_runs_are_chosen_and_sorted(tmp_path):
    for name, accuracy, kl in (("a", 0.6, 3.0), ("b", 0.9, 2.0), ("c", 0.7, 1.0)):
        contrast = {"accuracy": {"after": interval(accuracy)}}
        report = {**REPORT, "held_out": {"contrast": contrast}, "samples": {"after": {"kl": interval(kl)}}}
        objective = {"sum": [{"name": "ipo"}, {"name": "sft"}]} if name == "c" else {"name": "dpo"}
        config = {**CONFIG, "objective": objective}
        make_run(tmp_path / name, ending={"state": "finished"}, report=report, config=config)
    make_run(tmp_path / "d", ending={"state": "failed", "message": "no"})

    def names(**asked) -> str:
        return "".join(run.path.name for run in list_runs([tmp_path], **asked))

    assert names(sort="accuracy") == "bcad"
    assert names(sort="kl", states=["finished"]) == "cba"
    assert names(sort="path", reverse=True) == "dcba"
    assert names(sort="path", states=["failed"]) == "d"
    assert names(sort="path", objectives=["sft"]) == "c"
    assert names(sort="path", kinds=["loop"]) == ""
    assert list_runs([tmp_path], states=["failed"]).num_found == 4


def test_a_folder_that_is_given_twice_is_listed_once(tmp_path):
    make_run(tmp_path / "run", ending={"state": "finished"})
    assert len(list_runs([tmp_path, tmp_path / "run", tmp_path / "run" / ".." / "run"])) == 1


def test_wrong_words_are_refused(tmp_path):
    for asked, key in (({"states": ["done"]}, "--state"), ({"sort": "size"}, "--sort"), ({"kinds": ["x"]}, "--kind")):
        with raises(ConfigError, "unknown_choice", key=key):
            list_runs([tmp_path], **asked)
    with raises(ConfigError, "no_such_path", key="DIR"):
        list_runs([tmp_path / "nowhere"])


def test_no_escape_code_is_printed(tmp_path):
    config = {**CONFIG, "objective": {"name": "dpo\x1b[2J"}, "data": {"train": "a\nb"}}
    make_run(tmp_path / "run", ending={"state": "failed", "message": "\x1b]0;title\x07"}, config=config)
    text = list_runs([tmp_path]).summary()
    assert "\x1b" not in text
    assert "\x07" not in text


def test_advice_of_an_error_is_not_contradicted_and_a_command_has_a_line_of_its_own(tmp_path):
    message = f"{'a long explanation ' * 9}; --resume would take the same step again"
    make_run(tmp_path / "failed", ending={"state": "failed", "message": message})
    make_checkpoint(make_run(tmp_path / "stopped", ending={"state": "stopped", "message": "by SIGTERM"}), 3)
    found = {run.path.name: run for run in list_runs([tmp_path])}
    assert "continue" not in found["failed"].note
    for width in (None, 60):
        assert f"  {found['stopped'].command}" in list_runs([tmp_path]).text(width).splitlines()


def test_a_narrow_terminal_gets_short_lines_and_a_file_the_table(tmp_path):
    make_run(tmp_path / "run", ending={"state": "finished"}, report=REPORT)
    make_run(tmp_path / "other", ending={"state": "finished"}, config={**CONFIG, "objective": {"name": "ipo"}})
    found = list_runs([tmp_path])
    place = len(f"finished  {tmp_path / 'other'}")
    narrow, table = found.text(max(60, place)), found.text()
    assert max(map(len, narrow.splitlines())) <= max(60, place)
    assert max(map(len, table.splitlines())) > max(60, place)
    for text in ("dpo", "ipo", "pairs.jsonl", "steps 4", "accuracy 70 % (60 to 80)", "KL 2.00 (1.90 to 2.10)", "Yes"):
        assert text in " ".join(narrow.split())
    assert found.text(500) == table


def test_a_long_record_file_is_read_from_its_end(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", steps=200)
    (run / "metrics.jsonl").write_bytes(b"{\n" + (run / "metrics.jsonl").read_bytes())  # its beginning is not looked at
    monkeypatch.setattr(files, "TAIL", 1 << 10)
    assert files.last_record(run / "metrics.jsonl")["step"] == 200


def test_numbers_that_are_not_finite_are_valid_json(tmp_path):
    contrast = {"accuracy": {"after": {**interval(0.5), "low": "NaN", "high": "NaN"}}}
    make_run(tmp_path / "run", ending={"state": "finished"}, report={**REPORT, "held_out": {"contrast": contrast}})
    plain = json.loads(json.dumps(list_runs([tmp_path]).to_dict(), allow_nan=False))
    assert plain["runs"][0]["numbers"]["accuracy"]["low"] is None


def test_a_table_has_the_numbers_with_their_ends(tmp_path):
    make_run(tmp_path / "run", ending={"state": "finished"}, report=REPORT)
    row = list_runs([tmp_path]).to_pandas().iloc[0]
    assert (row["state"], row["kl"]) == ("finished", pytest.approx(2.0))
    assert row["accuracy_low"] == pytest.approx(0.6)
