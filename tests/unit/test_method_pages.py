"""What is written of methods is what the code says: docstrings are whole, pages are fresh, examples run."""

import math
import re
import runpy
from dataclasses import is_dataclass
from pathlib import Path

import pytest

import tiltlm.links
import tiltlm.objectives
import tiltlm.rewards
from support.errors import raises
from tiltlm.core import ConfigError
from tiltlm.objectives import CATALOG, build, knobs, register
from tiltlm.objectives.shapes import distributional
from tiltlm.recipes.catalogue import describe_method, overview
from tiltlm.recipes.methods import (
    METRICS,
    SECTIONS,
    data_text,
    metric_names,
    parse_docstring,
    parts_of_objective,
    reference_text,
    step_text,
    variants,
)

ROOT = Path(__file__).parents[2]
LETTERS = {"beta": "β", "tau": "τ", "alpha": "α", "eta": "η", "delta": "δ"}
"""Of knobs, in formulas."""
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "make_method_pages.py"))


@pytest.fixture
def own_catalog():
    """What a test registers is gone after it."""
    before = dict(CATALOG)
    yield
    CATALOG.clear()
    CATALOG.update(before)


@pytest.mark.parametrize("name", CATALOG)
def test_every_docstring_has_all_its_sections(name):
    facts = parse_docstring(name)
    assert facts.title
    assert facts.meaning.endswith((".", ")"))
    assert any("ℓ" in line for line in facts.formula)
    assert tuple(facts.sections) == SECTIONS
    assert all(text.endswith(".") for text in facts.sections.values())
    for knob in knobs(name):
        spellings = {knob.name, LETTERS.get(knob.name, knob.name)}
        explained = re.findall(r"\w+", " ".join([*facts.formula, facts.sections["Units"]]))
        assert spellings & set(explained), f"neither formula nor units say what {knob.name} is"


@pytest.mark.parametrize("name", CATALOG)
def test_a_name_in_a_docstring_is_one_of_the_catalogue_or_of_a_setting(name):
    """`kto` in backticks without more is a method, a column or a knob, so that no page sends a reader nowhere."""
    text = " ".join(parse_docstring(name).sections.values())
    peers = r"TRL|OAT|HALOs|LLaMA-Factory|Open-instruct|open-instruct|authors|code"
    for sentence in re.split(r"(?<=\.) ", text):
        for word in re.findall(r"`([a-z_0-9]+)`", sentence):
            known = word in CATALOG or any(word == k.name for n in CATALOG for k in knobs(n))
            column = word in ("weight", "offset", "preference", "label_smoothing")
            assert known or column or re.search(peers, sentence), f"`{word}` in: {sentence}"


def test_an_incomplete_docstring_is_refused_and_says_what_is_missing(own_catalog):
    @register
    def half(beta: float = 0.1):
        """Half: a method half told.

        ℓ = 0

        Source: none.
        Units: none.
        """
        return build("dpo", beta=beta)

    with raises(
        ConfigError, "docstring_sections", mentions=["half", "('Source', 'Units')", "'When', 'Differs', 'Fails'"]
    ):
        parse_docstring("half")
    half.__doc__ = "Half: a method half told."
    with raises(ConfigError, "docstring_paragraphs", mentions=["half", "1"]):
        parse_docstring("half")
    with raises(ConfigError, "unknown_name", key="name", mentions=["'dpoo'", "'dpo'"]):
        describe_method("dpoo")


def test_the_pages_are_what_the_script_writes():
    for path, text in SCRIPT["pages"]().items():
        assert path.exists(), f"{path.name} is missing: python scripts/make_method_pages.py"
        assert path.read_text() == text, f"{path.name} is stale: python scripts/make_method_pages.py"
    assert {path.stem for path in (ROOT / "docs" / "methods").glob("*.md")} == set(CATALOG)


def test_the_overview_names_every_method_once_and_fits_a_terminal():
    lines = overview().splitlines()
    assert max(map(len, lines)) <= 100
    for name in CATALOG:
        (line,) = [line for line in lines if line.startswith(f"  {name} ")]
        assert parse_docstring(name).meaning.split()[0] in line


@pytest.mark.parametrize("name", CATALOG)
def test_a_method_in_full_fits_a_terminal_and_tells_everything(name):
    text = describe_method(name)
    assert max(map(len, text.splitlines())) <= 100
    words = " ".join(text.split())
    facts = parse_docstring(name)
    for part in (facts.title, facts.meaning, *facts.sections.values(), *(k.name for k in knobs(name))):
        assert " ".join(part.split()) in words
    for line in facts.formula:
        assert line in text
    for metric in metric_names(variants(name)[""]):
        assert metric in words


def test_data_reference_and_step_are_those_of_the_objective():
    odpo, tdpo, simpo, aot, kto = (build(name) for name in ("odpo", "tdpo2", "simpo", "aot", "kto"))
    assert "`score_chosen`" in data_text(odpo)
    assert "preference" not in data_text(odpo)
    assert "`offset`, `preference`, `weight`" in data_text(simpo)
    assert reference_text(tdpo).startswith("needed at every step")
    assert reference_text(simpo).startswith("none")
    assert reference_text(kto).startswith("needed, `initial`")
    assert "Coupled" in step_text(aot)
    assert step_text(kto) == (
        "divided by the responses of the optimiser step, over all ranks. A statistic of the whole step comes first."
    )
    assert "divided by the tokens" in step_text(build("sft"))


def test_forms_are_those_that_read_other_data():
    assert {knob: form.shape for knob, form in variants("nca").items()} == {"": "pairs", "reward_temperature": "lists"}
    assert list(variants("exo")) == ["", "reward_temperature"]
    assert list(variants("f_dpo")) == [""]
    assert list(variants("alphapo")) == [""]  # its α has no default, and any will do


def test_metrics_follow_the_view():
    assert metric_names(build("sft")) == ["loss", "nll"]
    assert "kl" in metric_names(build("kto"))
    assert "delta" in metric_names(build("bco"))
    assert "rewards/accuracies" not in metric_names(build("kto"))
    assert {"rewards/accuracies", "rewards/ties"} <= set(metric_names(build("pl_dpo")))
    assert {m for name in CATALOG for m in metric_names(variants(name)[""])} == set(METRICS)


def test_parts_are_all_that_an_objective_is_made_of():
    assert [role for role, _ in parts_of_objective(build("dpo_nll"))] == ["reward", "link", "regularisers"]
    assert [type(part).__name__ for _, part in parts_of_objective(build("kto"))] == [
        "LogRatio",
        "Sigmoid",
        "MismatchedKL",
    ]
    assert all(is_dataclass(part) for name in CATALOG for _, part in parts_of_objective(variants(name)[""]))


@pytest.mark.parametrize("name", CATALOG)
def test_the_parts_on_a_page_build_the_method(name):
    text = (ROOT / "docs" / "methods" / f"{name}.md").read_text()
    (code,) = re.findall(r"## Parts\n\n```python\n(.*?)```", text, re.DOTALL)
    expected = list(variants(name).values())
    scope = {**vars(tiltlm.objectives), **vars(tiltlm.rewards), **vars(tiltlm.links), **vars(distributional)}
    built = [eval(piece, scope) for piece in re.split(r"\n(?=[A-Z])", code)]
    assert built == expected


def test_margins_come_to_rest_where_theory_says():
    rest = runpy.run_path(str(ROOT / "scripts" / "compare_beta.py"))["rest"]
    odds = math.log(0.8 / 0.2)
    assert rest("dpo", {"beta": 0.1}, 0.8) == pytest.approx(odds / 0.1, abs=2e-3)
    assert rest("ln_dpo", {"beta": 10.0}, 0.8) == pytest.approx(odds / 10 * 100, abs=2e-3)
    assert rest("ipo", {"tau": 0.1}, 0.8) == pytest.approx(0.6 / 0.2, abs=2e-3)
    assert rest("ipo_mean", {"tau": 10.0}, 0.8) == pytest.approx(0.6 / 20 * 100, abs=2e-3)
    smoothed = 0.8 * 0.9 + 0.2 * 0.1
    cdpo = rest("cdpo", {"beta": 0.1, "label_smoothing": 0.1}, 0.8)
    assert cdpo == pytest.approx(math.log(smoothed / (1 - smoothed)) / 0.1, abs=2e-3)


def test_every_method_in_the_handwritten_pages_exists():
    """Tables of docs/objectives.md, comparing-beta.md and coming-from-trl.md name methods that are there."""
    trl = (ROOT / "docs" / "coming-from-trl.md").read_text()
    written = re.findall(r"(?:objective\.)?\bname: ([a-z_0-9]+)(?![\w:])", trl)
    assert {"dpo", "reward_model"} <= set(written)
    assert set(written) - CATALOG.keys() <= {"moving"}  # a reference
    rows = re.findall(r"^\|.*\|$", (ROOT / "docs" / "comparing-beta.md").read_text(), re.MULTILINE)
    named = set(re.findall(r"`([a-z_0-9]+)`", "\n".join(rows)))
    assert len(named & CATALOG.keys()) >= 10
    assert named <= CATALOG.keys() | {knob.name for name in CATALOG for knob in knobs(name)}
