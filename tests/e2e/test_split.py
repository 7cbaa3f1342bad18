"""`tiltlm split`: parts by prompt, overlap with evaluation data, what is refused, and training on the parts."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import tiltlm
from support.errors import raises
from tiltlm.cli.main import app
from tiltlm.core.errors import ConfigError, DataError, RunError
from tiltlm.data import DataSettings
from tiltlm.data.files.sources import read_rows
from tiltlm.data.splits.plan import SplitPlan

NUM = 60


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def prompt_of(number: int) -> str:
    return " ".join(f"word{number * 17 + k}" for k in range(16))


@pytest.fixture
def rows() -> list[dict]:
    """Return two rows of each prompt, from two sources."""
    return [
        {"prompt": prompt_of(i), "chosen": f"yes {k}", "rejected": "no", "source": f"s{i % 2}", "note": i}
        for i in range(NUM)
        for k in range(2)
    ]


@pytest.fixture
def data(tmp_path: Path, rows) -> Path:
    return write_rows(tmp_path / "data.jsonl", rows)


def split(data: Path, output: Path, **options):
    return tiltlm.split(data={"train": str(data), "ignore": ["note"]}, output=output, progress=False, **options)


def split_plain(data: Path, output: Path) -> dict:
    """Return the account of a split of data without columns to ignore."""
    return dict(tiltlm.split(data=str(data), output=output, progress=False).account)


def read(path: Path) -> list[dict]:
    return [row.values for row in read_rows(DataSettings(train=str(path)))]


def test_every_row_is_in_one_part_as_it_was(data: Path, rows, tmp_path: Path):
    result = split(data, tmp_path / "parts", eval=0.2, test=0.2)
    assert result.account == json.loads((tmp_path / "parts" / "split.json").read_text())
    parts = {name: read(tmp_path / "parts" / f"{name}.jsonl") for name in ("train", "validation", "test")}
    key = json.dumps
    assert sorted(key(row) for part in parts.values() for row in part) == sorted(map(key, rows))
    prompts = {name: {row["prompt"] for row in part} for name, part in parts.items()}
    assert not prompts["train"] & prompts["validation"]
    assert not prompts["test"] & (prompts["train"] | prompts["validation"])
    for name, part in result.account["parts"].items():
        assert (part["rows"], part["prompts"]) == (len(parts[name]), len(prompts[name]))
    assert sum(part["rows"] for part in result.account["parts"].values()) == result.account["rows"] == 2 * NUM
    order = {key(row): i for i, row in enumerate(rows)}
    for part in parts.values():
        places = [order[key(row)] for row in part]
        assert places == sorted(places), "rows keep their order"


def test_parts_do_not_depend_on_file_format_and_order(data: Path, rows, tmp_path: Path):
    first = split(data, tmp_path / "one").account
    other = tmp_path / "other.parquet"
    pq.write_table(pa.Table.from_pylist(rows[::-1]), other)
    second = split(other, tmp_path / "two").account
    assert second["parts"]["train"]["file"] == "train.parquet"
    for part in ("train", "validation"):
        assert first["parts"][part]["fingerprint"] == second["parts"][part]["fingerprint"]
    assert first["fingerprint"] == second["fingerprint"]


def test_training_prompts_that_are_in_evaluation_data_are_named_and_left_out(data: Path, tmp_path: Path):
    plain = split(data, tmp_path / "plain").account
    train = sorted(
        {row["prompt"] for row in read(tmp_path / "plain" / "train.jsonl")}, key=lambda p: int(p.split()[0][4:])
    )
    held_out = read(tmp_path / "plain" / "validation.jsonl")[0]["prompt"]
    leaks = {
        "exact": train[0].upper(),
        "ngram": "Before that: " + " ".join(train[1].split()[:14]),
        "longest": " ".join([*(f"other{k}" for k in range(60)), *train[2].split()[:13]]),
    }
    evaluation = write_rows(
        tmp_path / "eval.jsonl",
        [{"question": text, "answer": 1} for text in (*leaks.values(), held_out, "A question of its own?")],
    )
    for drop in (False, True):
        result = split(data, tmp_path / f"{drop}", against=evaluation, drop_contaminated=drop)
        found = [json.loads(line) for line in (tmp_path / f"{drop}" / "contaminated.jsonl").read_text().splitlines()]
        assert [(one["kind"], one["other"]) for one in found] == [
            (kind, f"eval.jsonl:{line}") for line, kind in enumerate(leaks, start=1) for _ in range(2)
        ]
        assert [one["row"] for one in found[:2]] == ["data.jsonl:1", "data.jsonl:2"]
        account = result.account
        assert account["contamination"]["rows"] == 6
        assert account["contamination"]["kinds"] == {"exact": 2, "ngram": 2, "longest": 2}
        assert account["parts"]["train"]["rows"] == plain["parts"]["train"]["rows"] - 6 * drop
        assert account["parts"]["validation"] == plain["parts"]["validation"]
        left = {row["prompt"] for row in read(tmp_path / f"{drop}" / "train.jsonl")}
        assert left == set(train) - (set(train[:3]) if drop else set())
        assert ("--drop-contaminated" in result.summary()) != drop


def test_strata_have_equal_shares(data: Path, tmp_path: Path):
    account = split(data, tmp_path / "parts", eval=0.2, stratify="source").account
    assert account["parts"]["validation"]["strata"] == {"s0": 12, "s1": 12}
    assert account["parts"]["train"]["strata"] == {"s0": 48, "s1": 48}
    assert account["rule"]["stratify"] == "source"


def test_defective_rows_are_counted_and_in_no_part(rows, tmp_path: Path):
    rows[3]["chosen"] = ""
    data = write_rows(tmp_path / "data.jsonl", rows)
    account = split(data, tmp_path / "parts").account
    assert account["left_out"] == {"empty_response": 1}
    assert account["rows"] == len(rows) - 1


def test_prompts_alone_can_be_split(tmp_path: Path):
    data = write_rows(tmp_path / "prompts.jsonl", [{"prompt": prompt_of(i), "topic": i} for i in range(NUM)])
    account = tiltlm.split(data=str(data), output=tmp_path / "parts", progress=False).account
    assert account["prompts"] == NUM
    assert read(tmp_path / "parts" / "train.jsonl")[0].keys() == {"prompt", "topic"}


def test_rows_of_one_list_stay_together(tmp_path: Path):
    """HelpSteer has a row for each response."""
    scores = dict.fromkeys(("helpfulness", "correctness", "coherence", "complexity", "verbosity"), 1)
    rows = [{"prompt": prompt_of(i), "response": f"answer {k}", **scores} for i in range(NUM) for k in range(3)]
    account = split_plain(write_rows(tmp_path / "data.jsonl", rows), tmp_path / "parts")
    assert (account["rows"], account["prompts"]) == (3 * NUM, NUM)
    parts = [read(tmp_path / "parts" / f"{part}.jsonl") for part in ("train", "validation")]
    assert all(len(part) % 3 == 0 for part in parts)
    rows[0]["response"] = "another answer"
    changed = split_plain(write_rows(tmp_path / "other.jsonl", rows), tmp_path / "others")
    assert changed["fingerprint"] != account["fingerprint"]


def test_the_command_line(data: Path, tmp_path: Path):
    call = ["split", str(data), "--output", str(tmp_path / "parts"), "--eval", "0.2", "data.ignore=[note]"]
    result = CliRunner().invoke(app, call)
    assert result.exit_code == 0, result.output
    account = json.loads((tmp_path / "parts" / "split.json").read_text())
    assert account["parts"]["train"]["fingerprint"][:16] in result.stdout
    assert f"data.eval={tmp_path / 'parts' / 'validation.jsonl'}" in result.stdout
    with raises(ConfigError, "output_exists", key="--output", mentions=["--overwrite"]):
        CliRunner().invoke(app, call, catch_exceptions=False)


def test_overwrite_replaces_a_split_and_nothing_else(data: Path, tmp_path: Path):
    output = tmp_path / "parts"
    split(data, output, test=0.2)
    split(data, output, overwrite=True)
    assert sorted(file.name for file in output.iterdir()) == ["split.json", "train.jsonl", "validation.jsonl"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["data.jsonl", "parts"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with raises(ConfigError, "output_exists", key="--output"):
        split(data, tmp_path / "mine", overwrite=True)
    inside = write_rows(output / "more.jsonl", read(data))
    with raises(ConfigError, "conflict", key="--output"):
        split(inside, output, overwrite=True)
    assert inside.exists()


def test_nothing_is_left_of_a_split_that_fails(rows, tmp_path: Path, monkeypatch):
    data = write_rows(tmp_path / "data.jsonl", rows)
    split(data, tmp_path / "parts")
    before = (tmp_path / "parts" / "split.json").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tiltlm.recipes.data.split.write_json", full)
    with raises(RunError, "not_writable", key="--output"):
        split(data, tmp_path / "parts", overwrite=True, seed=1)
    assert (tmp_path / "parts" / "split.json").read_bytes() == before
    with raises(RunError, "not_writable", key="--output"):
        split(data, tmp_path / "new")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["data.jsonl", "parts"]


def test_data_that_changes_between_the_readings_is_refused(rows, tmp_path: Path, monkeypatch):
    data = write_rows(tmp_path / "data.jsonl", rows)
    groups = SplitPlan.groups

    def groups_and_more(plan):
        with data.open("a") as file:
            file.write(json.dumps(rows[0]) + "\n")
        return groups(plan)

    monkeypatch.setattr(SplitPlan, "groups", groups_and_more)
    with raises(RunError, "data_changed"):
        split(data, tmp_path / "parts")
    assert not (tmp_path / "parts").exists()


@pytest.mark.parametrize(
    ("options", "kind", "code", "key"),
    [
        ({"output": None}, ConfigError, "missing_setting", "output"),
        ({"drop_contaminated": True}, ConfigError, "no_effect", "--drop-contaminated"),
        ({"stratify": "topic"}, DataError, "no_such_column", "--stratify"),
        ({"against": "missing.jsonl"}, DataError, "no_such_path", None),
        ({"eval": 1e-9}, DataError, "empty_part", "--eval"),
        ({"eval": 0.1, "test": 1e-9}, DataError, "empty_part", "--test"),
        ({"data.max_length": 5}, ConfigError, "no_effect", None),
    ],
)
def test_what_cannot_work_is_refused(data: Path, tmp_path: Path, options: dict, kind, code: str, key):
    options = {"output": tmp_path / "parts", **options}
    with raises(kind, code, key=key):
        tiltlm.split(data={"train": str(data), "ignore": ["note"]}, progress=False, **options)
    assert not (tmp_path / "parts").exists()
