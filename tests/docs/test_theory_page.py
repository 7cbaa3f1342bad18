"""docs/theory.md: numbers of the text are printed by its programs, and its pictures are those that the script draws."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest

from support.pages import FENCE, ROOT, blocks

PAGE = ROOT / "docs" / "theory.md"
FIGURES = ROOT / "docs" / "figures"
AGAIN = "run: python scripts/make_theory_figures.py"


def words(svg: str) -> list[str]:
    """Return the text of a figure: title, labels and names of curves."""
    return [re.sub(r"<[^>]*>", "", text).strip() for text in re.findall(r"<text.*?</text>", svg, re.DOTALL)]


def curves(svg: str) -> list[np.ndarray]:
    """Return the coordinates of every path."""
    return [np.array(re.findall(r"-?\d+\.?\d*", path), float) for path in re.findall(r'<path[^>]* d="([^"]*)"', svg)]


def test_every_decimal_number_of_the_text_is_printed_or_set_by_a_program():
    text = FENCE.sub("", PAGE.read_text(encoding="utf-8"))
    code = "".join(block.text for block in blocks(PAGE))
    numbers = re.findall(r"(?<![\d.])\d+\.\d+", re.sub(r"arXiv\s+\d{4}\.\d{5}", "", text))
    assert [number for number in numbers if number not in code] == []


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("figures")
    runpy.run_path(str(ROOT / "scripts" / "make_theory_figures.py"))["write"](folder)
    return folder


@pytest.mark.slow
def test_the_page_shows_every_figure_of_the_script(drawn):
    shown = re.findall(r"\]\(figures/(theory-[\w-]+\.svg)\)", PAGE.read_text(encoding="utf-8"))
    made = sorted(path.name for path in drawn.iterdir())
    assert sorted(shown) == made == sorted(path.name for path in FIGURES.glob("theory-*.svg")), AGAIN


@pytest.mark.slow
def test_the_figures_are_those_that_the_script_draws(drawn):
    for path in sorted(drawn.iterdir()):
        new, kept = path.read_text(encoding="utf-8"), (FIGURES / path.name).read_text(encoding="utf-8")
        assert words(new) == words(kept), f"{path.name}: {AGAIN}"
        for one, other in zip(curves(new), curves(kept), strict=True):
            np.testing.assert_allclose(one, other, atol=0.01, err_msg=f"{path.name}: {AGAIN}")
