"""The reliability page names tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
ROW = re.compile(r"^\| (?!fault \|)(?P<fault>[^|]+) \| (?P<holds>[^|]+) \| (?P<tests>[^|]+) \|$", re.MULTILINE)
NAMED = re.compile(r"`(?P<file>tests/[\w/]+\.py)(?:::(?P<name>\w+))?`")


def test_every_promise_names_a_test_that_exists():
    for row in ROW.finditer(PAGE.read_text(encoding="utf-8")):
        named = list(NAMED.finditer(row["tests"]))
        assert named, f"no test is named for: {row['fault']}"
        for test in named:
            file = ROOT / test["file"]
            assert file.is_file(), f"{row['fault']}: {test['file']} is missing"
            if test["name"]:
                assert f"def {test['name']}(" in file.read_text(encoding="utf-8"), (
                    f"{row['fault']}: {test[0]} is missing"
                )
