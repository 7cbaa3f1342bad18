"""The parts of a check: blocks merge, rules are complete, and single checks give values worked out by hand."""

import runpy
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiltlm
from support.broken_data import BROKEN, good, lines, turns
from support.pages import ROOT
from tiltlm.data import workers
from tiltlm.data.accounting import CHANGES, LOSSES
from tiltlm.data.quality.inspection import all_rules
from tiltlm.data.quality.languages import CHECKS as OF_LANGUAGES
from tiltlm.data.quality.lengths import auc_of_lengths
from tiltlm.data.quality.row_checks import turn_faults
from tiltlm.data.quality.rules import CHANGE_RULES, CODE_OF_CAUSE, CODES, NOT_OF_CHECKS
from tiltlm.data.rows.cells import conversation
from tiltlm.recipes.data.noise import NOISE_RULES


def test_every_cause_of_the_loader_has_a_code():
    assert set(CODE_OF_CAUSE) | NOT_OF_CHECKS == set(LOSSES)
    assert not set(CODE_OF_CAUSE) & NOT_OF_CHECKS
    assert set(CHANGE_RULES) <= set(CHANGES)


def test_every_code_has_a_rule():
    rules = [*all_rules().values(), *NOISE_RULES, *(rule for kind in OF_LANGUAGES for rule in kind.rules)]
    assert {rule.code for rule in rules} == set(CODES)
    assert len({rule.key for rule in rules}) == len(rules)


@pytest.fixture
def mixed(tmp_path, monkeypatch):
    """A file with many kinds of defects, in an order that puts partners into different blocks."""
    rows = [good(i) for i in range(30)] + [good(3), good(40, chosen=" "), "{", good(7), good(41, prompt=None)]
    rows += [good(5, chosen=good(5)["rejected"], rejected=good(5)["chosen"])]
    rows += [good(50 + i, chosen=good(50 + i)["chosen"] + " and more") for i in range(30)]
    monkeypatch.chdir(tmp_path)
    return lines(*rows)(tmp_path)


def plain(result) -> dict:
    return {**result.to_dict(), "worst": result.report.worst, "lengths": result.report.lengths}


def test_blocks_and_processes_change_nothing(mixed, monkeypatch):
    one = plain(tiltlm.check(data=mixed, processes=1, progress=False))
    found = {f["key"]: f["count"] for f in one["findings"]}
    assert found == {
        "duplicate": 2,
        "empty_response": 1,
        "malformed_json": 1,
        "missing_value": 1,
        "opposite_label": 2,
        "length_bias": 46,  # 30 of 63 pairs, and half of the 33 with equal lengths
    }
    monkeypatch.setattr(workers, "BLOCK_ROWS", 3)
    assert plain(tiltlm.check(data=mixed, processes=1, progress=False)) == one
    assert plain(tiltlm.check(data=mixed, processes=2, progress=False)) == one


def test_a_limit_counts_over_all_sources(tmp_path):
    files = [lines(*(good(10 * k + i) for i in range(4)), name=f"{k}.jsonl")(tmp_path) for k in range(3)]
    result = tiltlm.check(data=files, limit=6, progress=False)
    assert result.report.num_rows == 6
    assert result.findings == ()


def test_a_damaged_source_does_not_hide_the_next_one(tmp_path):
    (case,) = (case for case in BROKEN if case.name == "not compressed")
    result = tiltlm.check(data=[case.write(tmp_path), lines(good(0), good(1))(tmp_path)], progress=False)
    assert (result.report.num_rows, result.report.num_kept) == (2, 2)
    assert [f.rule.key for f in result.findings] == ["damaged"]


SMALL = st.lists(st.integers(0, 6), min_size=1, max_size=8)


@given(SMALL, SMALL)
def test_auc_of_lengths_counts_pairs(better, worse):
    wins = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a in better for b in worse)
    assert auc_of_lengths(Counter(better), Counter(worse)) == pytest.approx(wins / (len(better) * len(worse)))


CALL = {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {}}]}


@pytest.mark.parametrize(
    ("roles", "faults"),
    [
        (["user"], {}),
        (["system", "user", "assistant", "user"], {}),
        (["system", "developer", "user"], {}),
        (["assistant", "user"], {}),
        (["user", "user"], {"role_order": 1}),
        (["user", "assistant", "assistant", "user"], {"role_order": 2}),
        (["user", "assistant", "system", "user"], {"system_not_first": 2}),
        (["tool", "user"], {"tool_pairing": 0}),
        (["user", "call", "tool", "tool"], {}),
        (["user", "call", "user"], {"tool_pairing": 2}),
        (["user", "call"], {"tool_pairing": 2}),
        (["user", "wizard"], {"role_order": 1}),
    ],
)
def test_faults_of_turns(roles, faults):
    prompt = [CALL if role == "call" else turns(role)[0] for role in roles]
    answer = turns("assistant")
    assert turn_faults(conversation("prompt", prompt + answer), len(prompt)) == faults


def test_the_page_has_the_present_rules():
    script = runpy.run_path(str(ROOT / "scripts" / "make_checks_table.py"))
    page = ROOT / "docs" / "checking-data.md"
    assert page.read_text(encoding="utf-8") == script["page"](), "run scripts/make_checks_table.py"
    assert {rule.key for rule in script["rules"]()} >= {*LOSSES} - NOT_OF_CHECKS
