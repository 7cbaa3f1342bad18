"""Files of answers: what is written is read back, in every format, and broken rows are named."""

import json
import math
from dataclasses import fields

import numpy as np
import pytest

from support.errors import raises
from tiltlm.core.errors import ConfigError, DataError
from tiltlm.core.example import token_ids
from tiltlm.sampling.answers import ENDINGS, AnswerRow, read_answers, require_own_distribution, write_answers

FULL = AnswerRow(
    "p1", "Where?", ("here ü", "there"), (True, False), token_ids([1, 4]), (token_ids([5, 2]), token_ids([6])),
    (-1.5, -0.25), (-1.0, -0.125), (0.5, math.nan), 0.7, 3, "m", "d1", "own", True, False,
    {"category": "a", "answer": 5}, (np.float32([-1 / 3, -2e-7]), np.float32([-0.125])),
)  # fmt: skip
CHAT = AnswerRow(
    "p2", ({"role": "user", "content": "Hi"},), ("yes",), (True,), token_ids([1]), (token_ids([2]),), (-2.0,), (-2.0,),
    (1.0,), 1.0, 3, "m", "d1", "own", True, True, {"meta": {"k": [1, 2]}},
)  # fmt: skip


def same(a, b) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    return a == b or (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b))


def differing(a: AnswerRow, b: AnswerRow) -> list[str]:
    return [f.name for f in fields(AnswerRow) if not same(getattr(a, f.name), getattr(b, f.name))]


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_written_is_read_back(tmp_path, ending):
    path = tmp_path / f"answers{ending}"
    write_answers(path, [FULL, CHAT])
    first, second = read_answers(path)
    assert differing(first, FULL) == []
    assert first.category == "a"
    in_parquet = ending == ".parquet"  # mappings are JSON text there
    assert differing(second, CHAT) == (["row"] if in_parquet else [])
    assert json.loads(second.row["meta"]) == {"k": [1, 2]} if in_parquet else True


@pytest.mark.parametrize("ending", ENDINGS)
def test_equal_rows_give_equal_bytes(tmp_path, ending):
    one, other = tmp_path / f"a{ending}", tmp_path / f"b{ending}"
    write_answers(one, [FULL, CHAT])
    write_answers(other, [FULL, CHAT])
    assert one.read_bytes() == other.read_bytes()
    write_answers(other, [CHAT, FULL])
    assert one.read_bytes() != other.read_bytes()


def test_given_texts_alone_are_answers(tmp_path):
    path = tmp_path / "given.jsonl"
    path.write_text('{"prompt": "p", "completion": "a"}\n{"prompt": "q", "completions": ["a", "b"], "id": "x"}\n')
    first, second = read_answers(path)
    assert first.answers == ("a",)
    assert first.ended == (True,)
    assert first.token_ids is first.logps is first.temperature is None
    assert second.id == "x"
    assert len({first.id, second.id}) == 2
    write_answers(path, [first, second])
    assert [differing(a, b) for a, b in zip(read_answers(path), (first, second), strict=True)] == [[], []]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ({"prompt": "p"}, "missing_value"),
        ({"completions": ["a"]}, "missing_value"),
        ({"prompt": "p", "completions": []}, "empty_response"),
        ({"prompt": "p", "completions": "text"}, "wrong_type"),
        ({"prompt": "p", "completions": [3]}, "wrong_type"),
        ({"prompt": "p", "completions": ["a"], "logps": [1, 2]}, "wrong_type"),
        ({"prompt": "p", "completions": ["a", "b"], "completions_ids": [[1]]}, "wrong_type"),
        ({"prompt": "p", "completions": ["a"], "completions_ended": [True, True]}, "wrong_type"),
    ],
)
def test_a_broken_row_is_named(tmp_path, line, code):
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "p", "completions": ["a"]}\n' + json.dumps(line) + "\n")
    with raises(DataError, code, row="a.jsonl:2"):
        read_answers(path)


def test_another_ending_is_refused(tmp_path):
    with raises(ConfigError, "unknown_file_format", key="output", mentions=[".parquet"]):
        write_answers(tmp_path / "a.csv", [FULL])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("temperature", "untruncated"), [(0.7, True), (1.0, False), (0.0, True), (None, True)])
def test_a_kl_needs_the_models_own_distribution(temperature, untruncated):
    row = AnswerRow("p", "x", ("a",), (True,), temperature=temperature, is_untruncated=untruncated)
    require_own_distribution([CHAT], "a KL")
    with raises(DataError, "not_own_distribution", row="p"):
        require_own_distribution([CHAT, row], "a KL")
