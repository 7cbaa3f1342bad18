"""Deliberately broken files give exactly the findings that were put into them, and good files give none."""

from collections import Counter
from pathlib import Path

import pytest

import tiltlm
from support.broken_data import BROKEN, FINE, Case
from tiltlm.data.quality.rules import CODES

ELSEWHERE = {"D09", "D14", "D16"}
"""Codes that need a tokenizer, a package or a model: they have tests of their own."""


@pytest.mark.parametrize("case", [*FINE, *BROKEN], ids=lambda case: case.name)
def test_a_file_gives_exactly_its_findings(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data = case.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    result = tiltlm.check(data=data, progress=False, **{f"data.{k}": v for k, v in case.settings.items()})
    assert {f.rule.key: f.count for f in result.findings} == dict(case.found)
    if case.rows is not None:
        assert result.report.num_rows == case.rows
    if case.code:
        assert case.code in {f.rule.code for f in result.findings}
    has_error = any(f.rule.level == "error" for f in result.findings)
    assert result.exit_code == has_error
    for finding in result.findings:
        assert finding.count <= finding.of or finding.rule.unit == "files"
        assert finding.rule.cause
        assert finding.rule.fix


def test_every_code_is_broken_at_least_twice():
    counts = Counter(case.code for case in BROKEN)
    assert {code for code in CODES if counts[code] < 2} == ELSEWHERE
