"""The pages of the presets, and the facts on them, come from the declarations."""

import ast
import inspect
import runpy
from pathlib import Path

import pytest

import tiltlm.online.presets as declared
from tiltlm.config.resolve import resolve
from tiltlm.objectives import compose
from tiltlm.online.presets import PRESETS
from tiltlm.recipes.online.loop_checks import check_loop
from tiltlm.recipes.online.loop_run import LoopRunSettings
from tiltlm.recipes.online.presets import PresetList, facts_of

ROOT = Path(__file__).parents[2]
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "make_preset_pages.py"))


def test_the_pages_are_what_the_script_writes():
    for path, text in SCRIPT["pages"]().items():
        assert path.exists(), f"{path.name} is missing: python scripts/make_preset_pages.py"
        assert path.read_text() == text, f"{path.name} is stale: python scripts/make_preset_pages.py"
    assert {path.stem for path in (ROOT / "docs" / "presets").glob("*.md")} == set(PRESETS)


def test_a_preset_is_a_declaration_of_at_most_thirty_lines():
    calls = [
        node
        for node in ast.walk(ast.parse(inspect.getsource(declared)))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "_preset"
    ]
    assert len(calls) == len(PRESETS)
    assert max(node.end_lineno - node.lineno + 1 for node in calls) <= 30


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_fits_together(name):
    """Its settings pass the checks of the command; only what a user must name is added."""
    given = {"model": "model", "data": "prompts.jsonl", "output": "run"}
    more = {"reference.name": "teacher"} if name == "opd" else {}
    settings = resolve(LoopRunSettings, given, dict(PRESETS[name].settings), **more)
    check_loop(settings, compose(settings.objective))


@pytest.mark.parametrize("name", PRESETS)
def test_the_facts_of_a_preset(name):
    one, facts = PRESETS[name], facts_of(PRESETS[name])
    assert ": " in one.title
    assert "arXiv" in one.source
    assert one.differs.endswith(".")
    assert one.fails.endswith(".")
    assert all(vars(facts).values())
    assert str(one.settings["loop"]["n"]) in facts.draws
    assert one.settings["examples"]["rule"] in facts.trains


def test_the_list_names_every_preset_and_fits_a_terminal():
    lines = PresetList().summary().splitlines()
    assert max(map(len, lines)) <= 100
    assert set(PRESETS) <= set(lines)
    table = PresetList().to_pandas()
    assert list(table.index) == list(PRESETS)
