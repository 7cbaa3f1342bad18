"""Unusual and hostile rows through the commands that read data: each is used or named, and memory is bounded."""

import json
import resource

import pytest

import tiltlm
from support.terminal_texts import ESCAPES, UNSEEN
from tiltlm.data.data_settings import DataSettings
from tiltlm.data.files.sources import read_rows

pytestmark = pytest.mark.usefixtures("blank_figures")
LONG = "".join(chr(0x1F300 + i % 500) + "é\u0301ש" for i in range(2500))
AWKWARD = {
    "ten thousand characters of many scripts": (LONG, "yes", "no"),
    "a megabyte": ("word " * 200_000, "yes", "no"),
    "no token": ("why?", "", "no"),
    "only spaces": ("why?", " \n", "no"),
    "a joined emoji": ("👩‍👩‍👧", "👍🏽", "👎"),
    "half of a surrogate pair": ("a\ud83d", "yes", "no"),
    **{name: (text, f"yes {text}", "no") for name, text in {**ESCAPES, **UNSEEN}.items()},
}
DEFECTS = {"no token": "empty_response", "only spaces": "empty_response", "half of a surrogate pair": "invalid_unicode"}
"""Row → the cause for which it is left out. Others are used, or have half of a surrogate pair too."""


@pytest.fixture
def awkward(tmp_path):
    """Return a file with the rows, and a conversation of 200 turns."""
    path = tmp_path / "awkward.jsonl"
    rows = [dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in AWKWARD.values()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def turns(tmp_path):
    """Return a file with conversations of 200 turns."""
    roles = ("user", "assistant")
    prompt = [{"role": roles[i % 2], "content": f"turn {i}"} for i in range(199)]
    last = [{"role": "assistant", "content": text} for text in ("yes", "no")]
    path = tmp_path / "turns.jsonl"
    path.write_text(json.dumps({"prompt": prompt, "chosen": last[:1], "rejected": last[1:]}) + "\n")
    return path


def left_out() -> set[int]:
    """Return the lines of rows that are left out."""
    return {
        line
        for line, (name, texts) in enumerate(AWKWARD.items(), start=1)
        if name in DEFECTS or any("\ud800" <= one <= "\udfff" for text in texts for one in text)
    }


@pytest.mark.long
def test_every_row_is_used_or_named(awkward, model, tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    settings = {"progress": False, "max_bad": 0.9}
    found = tiltlm.check(data=awkward, progress=False)
    assert found.report.num_rows == len(AWKWARD)
    assert found.report.num_kept == len(AWKWARD) - len(left_out())
    codes = {finding.rule.code for finding in found.findings}
    assert codes >= {"D01", "D02", "D15"}
    assert str(found)
    described = tiltlm.stats(data=awkward, **settings)
    assert described.summary()
    converted = tiltlm.convert(awkward, tmp_path / "out.jsonl", to="trl", lossy=True, progress=False)
    kept = [row.values for row in read_rows(DataSettings(train=str(tmp_path / "out.jsonl")))]
    assert converted.num_written == len(kept) == len(AWKWARD) - len(left_out())
    texts = [row for line, row in enumerate(AWKWARD.values(), start=1) if line not in left_out()]
    assert [(row["prompt"], row["chosen"], row["rejected"]) for row in kept] == texts, "no character is lost"
    previews = tiltlm.preview(data=awkward, model=model, rows=len(AWKWARD), max_bad=0.9)
    assert len(previews) <= len(AWKWARD) - len(left_out())
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 2_000_000, "kilobytes: a megabyte of text needs no gigabytes"


def test_two_hundred_turns(turns, model, tmp_path):
    found = tiltlm.check(data=turns, progress=False)
    assert (found.report.num_rows, found.report.num_kept) == (1, 1)
    assert tiltlm.stats(data=turns, progress=False).summary()
    done = tiltlm.convert(turns, tmp_path / "out.jsonl", to="messages", lossy=True, progress=False)
    assert done.num_written == 2, "one conversation for each response"
