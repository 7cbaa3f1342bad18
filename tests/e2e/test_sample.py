"""`tiltlm sample`: the file of answers, continued to the same bytes after any kill, and read by training."""

import json
import logging
import os
import random
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import tiltlm
from support.completions_server import choice, completion, serving
from support.errors import events, has_event, raises
from tiltlm.cli.main import app
from tiltlm.core import ConfigError, DataError, RunError
from tiltlm.recipes.answers import answers_file
from tiltlm.sampling.answers import read_answers, write_answers

PROMPTS = [
    {"prompt": f"Guest {name}: Where is my {colour} hat?\nDesk:", "category": colour, "answer": i}
    for i, (name, colour) in enumerate((n, c) for n in ("Ada", "Ben", "Clara") for c in ("red", "blue"))
]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
    return path


@pytest.fixture(scope="module")
def policy(model):
    return tiltlm.load_policy(model)


def draw(policy, prompts, output=None, **more):
    return tiltlm.sample(policy, prompts, **{"n": 3, "max_new_tokens": 12, "max_rows": 6, "output": output, **more})


@pytest.fixture(scope="module")
def answers(policy, prompts, tmp_path_factory):
    """Return the answers to all prompts at three temperatures, and their file."""
    path = tmp_path_factory.mktemp("answers") / "a.jsonl"
    return draw(policy, prompts, path, temperatures=(0, 0.7, 1), seed=4)


def test_the_command_writes_what_the_call_returns(answers, model, prompts, tmp_path):
    path = tmp_path / "b.jsonl"
    arguments = ["sample", model, "--prompts", prompts, "--n", 3, "--temperatures", "0,0.7,1", "--seed", 4]
    done = CliRunner().invoke(app, [*map(str, arguments), "--output", str(path), "max_new_tokens=12", "max_rows=6"])
    assert done.exit_code == 0, done.output
    assert str(path) in done.stdout
    assert path.read_bytes() == answers.path.read_bytes()


def test_a_row_holds_what_its_columns_say(answers, policy):
    rows = [json.loads(line) for line in answers.path.read_text().splitlines()]
    assert len(rows) == 18
    assert [row["temperature"] for row in rows[:3]] == [0, 0.7, 1]
    for row, asked in zip(rows[::3], PROMPTS, strict=True):
        assert {name: row[name] for name in asked} == asked
        assert len(row["completions"]) == 1
    for row in rows:
        n = len(row["completions"])
        assert [len(row[c]) for c in ("completions_ids", "completions_ended", "logps", "behaviour_logps")] == [n] * 4
        assert row["exact"] is row["untruncated"] is True
        assert row["engine"] == "own"
        if row["temperature"] == 1:
            assert row["logps"] == row["behaviour_logps"]
        ends = [ids[-1] in policy.end_token_ids for ids in row["completions_ids"]]
        assert row["completions_ended"] == ends


def test_rows_are_those_of_the_sampler_for_each_prompt_alone(answers, policy):
    """Chunks and temperatures of one call change no answer."""
    for temperature in (0.7, 1):
        alone = [row for row in answers.rows if row.temperature == temperature][2]
        (again,) = draw(policy, [PROMPTS[2]], temperature=temperature, seed=4).rows
        assert again.answers == alone.answers
        np.testing.assert_allclose(again.logps, alone.logps, atol=1e-4)


def test_a_result_shows_itself(answers):
    assert "48" not in repr(answers).replace(str(answers.path), "")
    assert f"{6 * 7} answers" in repr(answers)
    table = answers.to_pandas()
    assert len(table) == 42
    assert {"id", "temperature", "answer", "ended", "logp", "category"} <= set(table.columns)
    diversity = answers.diversity_table().set_index("temperature")
    assert diversity.loc[1.0, "distinct_2"] == answers.diversity[1.0].distinct_2
    assert np.isnan(diversity.loc[0.0, "distance"])
    assert "<table" in answers._repr_html_()
    assert str(answers.path) in answers.summary()


@pytest.mark.parametrize("ending", [".jsonl.gz", ".jsonl.zst", ".parquet"])
def test_other_formats_hold_the_same(answers, policy, prompts, tmp_path, ending):
    path = tmp_path / f"a{ending}"
    draw(policy, prompts, path, temperatures="0,0.7,1", seed=4)
    plain = [(r.id, r.answers, r.logps, r.temperature, dict(r.row)) for r in answers.rows]
    assert [(r.id, r.answers, r.logps, r.temperature, dict(r.row)) for r in read_answers(path)] == plain


CHILD = """
    import os, signal, sys, time
    from pathlib import Path
    import tiltlm
    model, prompts, folder, *delays = sys.argv[1:]
    policy = tiltlm.load_policy(model)
    def draw(output, resume=True):
        tiltlm.sample(policy, prompts, n=3, output=output, temperatures=(0, 0.7, 1), seed=4, resume=resume,
                      max_new_tokens=12, max_rows=3)
    def size(path):
        return path.stat().st_size if path.exists() else 0
    draw(Path(folder, "warm.jsonl"), False)
    for name in ("killed.jsonl", "killed.parquet"):
        output = Path(folder, name)
        partial = output.with_name(f".{name}.partial")
        for delay in map(float, delays):
            before, pid = size(partial), os.fork()
            if pid == 0:
                draw(output)
                os._exit(0)
            while size(partial) <= before and not output.exists():
                time.sleep(0.002)
            time.sleep(delay)
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            lines = len(partial.read_bytes().splitlines()) if partial.exists() else 0
            print("killed" if os.WIFSIGNALED(status) and lines > 1 else "early or late", lines, flush=True)
        draw(output)
"""


@pytest.mark.slow
def test_a_killed_call_is_continued_to_the_same_bytes(policy, model, prompts, tmp_path):
    """SIGKILL at random moments after the file of chunks has grown, over and over, until all is drawn."""
    for ending in (".jsonl", ".parquet"):
        draw(policy, prompts, tmp_path / f"whole{ending}", temperatures=(0, 0.7, 1), seed=4, max_rows=3)
    rng = random.Random(0)
    delays = [str(rng.uniform(0, 0.1)) for _ in range(6)]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILD), model, prompts, tmp_path, *delays],
        capture_output=True, text=True, check=False, env=os.environ,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("killed") >= 4, done.stdout
    for ending in (".jsonl", ".parquet"):
        assert (tmp_path / f"killed{ending}").read_bytes() == (tmp_path / f"whole{ending}").read_bytes(), done.stdout
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


class Stop(Exception):
    """Stands for a kill after a chunk."""


def stopped_after(num_chunks, policy, prompts, path, monkeypatch, **more):
    append = answers_file.AnswersFile.append

    def once(self, *chunk):
        if len(self.chunks) == num_chunks:
            raise Stop
        append(self, *chunk)

    with monkeypatch.context() as patch:
        patch.setattr(answers_file.AnswersFile, "append", once)
        with pytest.raises(Stop):
            draw(policy, prompts, path, **more)


def test_a_line_that_was_cut_is_drawn_again(policy, prompts, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "tiltlm")
    whole, path = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    draw(policy, prompts, whole)
    stopped_after(2, policy, prompts, path, monkeypatch)
    partial = answers_file.partial_of(path)
    for cut in (1, 40, len(partial.read_bytes().splitlines()[-1]) - 1):
        partial.write_bytes(partial.read_bytes()[:-cut])
        stopped_after(2, policy, prompts, path, monkeypatch, resume=True)
    draw(policy, prompts, path, resume=True)
    assert len(events(caplog, "answers_resumed")) == 4
    assert path.read_bytes() == whole.read_bytes()


def test_nothing_is_drawn_twice(policy, prompts, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "tiltlm")
    path = tmp_path / "a.jsonl"
    stopped_after(2, policy, prompts, path, monkeypatch)
    seen = []
    draw(policy, prompts, path, resume=True, progress=lambda label, done, total, **_: seen.append((label, done, total)))
    assert seen[0] == ("sample", 12, 18)
    assert seen[-1] == ("sample", 18, 18)
    before = path.read_bytes()
    monkeypatch.setattr("tiltlm.sampling.engines.own.sample", None)
    again = draw(policy, prompts, path, resume=True)
    assert has_event(caplog, "answers_finished")
    assert len(again.rows) == 6
    assert path.read_bytes() == before


def test_another_request_does_not_continue(policy, prompts, tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    stopped_after(1, policy, prompts, path, monkeypatch)
    with raises(ConfigError, "unfinished", key="output", mentions=["--resume", "--overwrite"]):
        draw(policy, prompts, path)
    for more, key in (({"seed": 9}, "seed"), ({"n": 2}, "n"), ({"top_p": 0.9}, "top_p"), ({"limit": 3}, "prompts")):
        with raises(ConfigError, "other_request", key=key):
            draw(policy, prompts, path, resume=True, **more)
    draw(policy, prompts, path, overwrite=True)
    with raises(ConfigError, "exists", key="output"):
        draw(policy, prompts, path)
    for more, key in (({"seed": 9}, "seed"), ({"temperature": 0.5}, "temperatures"), ({"limit": 3}, "prompts")):
        with raises(ConfigError, "other_request", key=key):
            draw(policy, prompts, path, resume=True, **more)


def test_two_processes_do_not_write_one_file(policy, prompts, tmp_path):
    path = tmp_path / "a.jsonl"
    request = answers_file.SampleRequest(output=path)
    with answers_file.open_answers(request, {}), raises(ConfigError, "in_use", key="output"):
        draw(policy, prompts, path, overwrite=True)


def scored(rows, path) -> Path:
    """Write rows with made-up scores: a later answer is better."""
    write_answers(path, [replace(row, scores=tuple(map(float, range(len(row.answers))))) for row in rows])
    return path


def test_training_reads_the_tokens_that_were_drawn(answers, policy, train, tmp_path):
    rows = [row for row in answers.rows if row.temperature == 1]
    data = scored(rows, tmp_path / "scored.jsonl")
    found = tiltlm.load_data(data, policy, "pl_dpo", eval_fraction=0)
    kept = {example.id: example for example in found.train}
    assert len(kept) >= 3
    for row in rows:
        if row.id in kept:
            example = kept[row.id]
            assert example.prompt_ids.tolist() == row.prompt_ids.tolist()
            assert [r.token_ids.tolist() for r in example.responses] == [ids.tolist() for ids in row.token_ids]
            assert [r.ended for r in example.responses] == list(row.ended)
    train(tmp_path / "run", data=data, objective="dpo", max_steps=1, eval_fraction=0)
    train(tmp_path / "sft", data=data, objective="sft", max_steps=1, eval_fraction=0)


def test_answers_without_scores_say_what_is_missing(answers, policy):
    for objective in ("dpo", "sft", "pl_dpo"):
        with raises(DataError, "needs_one_order", mentions=["`scores`"]):
            tiltlm.load_data(answers.path, policy, objective)


def test_answers_are_prompts_again(answers, policy):
    again = draw(policy, answers.path, temperature=0.7, seed=4)
    expected = [row for row in answers.rows if row.temperature == 0.7]
    assert [(r.id, r.answers) for r in again.rows] == [(r.id, r.answers) for r in expected]
    assert again.rows[0].category == "red"


@pytest.mark.parametrize(
    ("more", "kind", "code", "key"),
    [
        ({"n": 0}, ConfigError, "not_positive", "n"),
        ({"limit": 0}, ConfigError, "not_positive", "limit"),
        ({"seed": -1}, ConfigError, "negative", "seed"),
        ({"too_long": "cut"}, ConfigError, "unknown_name", "too_long"),
        ({"temperatures": "a,b"}, ConfigError, "wrong_type", "temperatures"),
        ({"temperatures": (1, 1)}, ConfigError, "duplicate", "temperatures"),
        ({"temperatures": ()}, ConfigError, "duplicate", "temperatures"),
        ({"temperatures": (1, -1)}, ConfigError, "negative", "sampling.temperature"),
        ({"temperatures": (1,), "temperature": 1}, ConfigError, "conflict", "temperatures"),
        ({"temperature": 0, "top_p": 0.9}, ConfigError, "no_effect", "sampling.top_p"),
        ({"resume": True}, ConfigError, "no_effect", "output"),
        ({"dtype": "float64"}, ConfigError, "no_effect", "model"),
        ({"max_length": 5}, ConfigError, "no_effect", "data.max_length"),
        ({"engine": "vlm"}, ConfigError, "unknown_name", "engine.name"),
        ({"output": "a.csv"}, ConfigError, "unknown_file_format", "output"),
        ({"output": "nowhere/a.jsonl"}, ConfigError, "no_such_path", "output"),
        ({"output": "a.jsonl", "resume": True, "overwrite": True}, ConfigError, "conflict", "resume"),
        ({"max_new_tokens": 10_000}, DataError, "no_rows_left", None),
        ({"max_new_tokens": 10_000, "too_long": "error"}, DataError, "too_long", "sampling.max_new_tokens"),
    ],
)
def test_what_cannot_be_is_refused(policy, prompts, tmp_path, monkeypatch, more, kind, code, key):
    monkeypatch.chdir(tmp_path)
    with raises(kind, code, key=key):
        draw(policy, prompts, **more)
    assert list(tmp_path.iterdir()) == []


def test_prompts_are_needed(policy, model, tmp_path):
    with raises(ConfigError, "missing_setting", key="prompts"):
        tiltlm.sample(policy)
    with raises(DataError, "no_such_path", mentions=["none.jsonl"]):
        tiltlm.sample(policy, tmp_path / "none.jsonl")
    with raises(DataError, "missing_column", key="data.columns.prompt"):
        tiltlm.sample(policy, [{"text_of_it": "a"}])


def test_truncation_is_left_out_at_temperature_zero_of_several(policy, prompts):
    found = draw(policy, prompts, temperatures=(0, 1), top_p=0.5)
    assert {(row.temperature, row.is_untruncated) for row in found.rows} == {(0, True), (1, False)}


def test_a_server_answers_and_its_stop_loses_nothing(model, prompts, tmp_path):
    """It fails for the fourth prompt; the three before it are kept and not asked again."""
    pytest.importorskip("openai")
    is_down = [True]

    def reply(body, number):
        if is_down[0] and number == 3:
            return 400, {"error": {"message": "no"}}
        return completion(*[choice([5 + number % 7, 2], [-1.0, -0.5])] * body["n"])

    path = tmp_path / "a.jsonl"
    with serving(reply) as server:
        settings = {"engine": server.url, "max_rows": 1, "n": 1}
        with raises(RunError, "server_failed", mentions=["--resume"]):
            draw(model, prompts, path, **settings)
        is_down[0] = False
        found = draw(model, prompts, path, resume=True, **settings)
        asked = [request["prompt"] for request in server.requests]
    assert len(asked) == 7
    assert asked[3] == asked[4]
    assert len({tuple(a) for a in asked}) == 6
    assert [row.logps for row in found.rows] == [(-1.5,)] * 6
    assert {(row.engine, row.exact, row.model_digest) for row in found.rows} == {("server", False, "")}
    assert all(row.ended == (True,) for row in found.rows)
