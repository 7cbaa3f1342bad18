"""Whatever bytes and values a file has, a check ends in findings or in an error of ours, and counts every row."""

import json
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tiltlm
from support.broken_data import good
from tiltlm.core import TiltError
from tiltlm.data.files.sources import READERS

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
KEYS = st.sampled_from(["role", "content", "type", "text", "from"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
COLUMNS = st.sampled_from(
    ["prompt", "chosen", "rejected", "messages", "completion", "label", "completions", "scores", "ranks", "system"]
)


def check(name: str, content: bytes):
    """Return what a check of a file finds, or the error of ours."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        try:
            return tiltlm.check(data=str(path), progress=False)
        except TiltError as error:
            return error


@given(st.binary(max_size=200), st.sampled_from(sorted(READERS)).map("a".__add__))
@QUICK
def test_any_bytes(content, name):
    result = check(name, content)
    assert isinstance(result, TiltError) or result.findings


@given(st.lists(st.dictionaries(COLUMNS, VALUES, max_size=4), min_size=1, max_size=4))
@QUICK
def test_any_rows(rows):
    lines = [json.dumps(row) for row in rows]
    result = check("a.jsonl", "\n".join(lines).encode())
    if not isinstance(result, TiltError):
        report = result.report
        assert report.num_rows == len(rows)
        if all(f.rule.key != "columns" for f in result.findings):
            lost = sum(f.count for f in result.findings if f.rule.unit == "rows" and f.rule.leaves_out)
            assert report.num_rows - report.num_kept <= lost


@given(st.lists(st.sampled_from('{}[]",:\\u0d8n \n\r\t'), max_size=30).map("".join), st.integers(0, 400))
@QUICK
def test_one_damaged_place(noise, place):
    text = "\n".join(json.dumps(good(i)) for i in range(4))
    result = check("a.jsonl", (text[:place] + noise + text[place:]).encode())
    assert not isinstance(result, TiltError)
    assert result.report.num_rows >= 4 or noise
