"""Row counts: their sums, limits that stop a run, and the table."""

import json

from hypothesis import given
from hypothesis import strategies as st

from support.errors import raises
from tiltlm.core.errors import DataError
from tiltlm.core.example import Comparison, Example, Response, token_ids
from tiltlm.data.accounting import BY_POLICY, LOSSES, SHOWN, Accounting, Defect, excerpt


def example(prompt=3, chosen=2, rejected=4):
    responses = tuple(Response(token_ids([1] * n)) for n in (chosen, rejected))
    return Example("1", token_ids([1] * prompt), responses, (Comparison(0, 1),))


def counted(good=0, **causes):
    accounting = Accounting(total=good + sum(causes.values()))
    for _ in range(good):
        accounting.keep(example(), held_out=False)
    for cause, count in causes.items():
        for i in range(count):
            accounting.drop(f"a.jsonl:{i + 1}", Defect(cause, "seen"))
    return accounting


@given(st.lists(st.sampled_from([None, True, *LOSSES]), max_size=40))
def test_rows_add_up(outcomes):
    accounting = Accounting()
    for outcome in outcomes:
        accounting.total += 1
        if isinstance(outcome, str):
            accounting.drop("a:1", Defect(outcome))
        else:
            accounting.keep(example(), held_out=bool(outcome))
    plain = accounting.as_dict()
    assert accounting.total == accounting.kept + accounting.dropped == len(outcomes)
    assert plain["total"] == plain["train"] + plain["held_out"] + sum(x["rows"] for x in plain["losses"].values())
    assert all(len(x["examples"]) <= SHOWN for x in plain["losses"].values())
    assert accounting.defects == sum(isinstance(f, str) and f not in BY_POLICY for f in outcomes)
    assert json.loads(json.dumps(plain)) == plain


def test_five_percent_pass_and_more_do_not():
    counted(95, malformed_json=5).check_limit(0.05, "drop")
    facts = ["100", "6.0%", "5.0%", "malformed_json × 4", "empty_response × 2", "a.jsonl:4: seen", "0.06"]
    with raises(DataError, "too_many_defects", key="data.max_bad", mentions=facts):
        counted(94, malformed_json=4, empty_response=2).check_limit(0.05, "drop")
    counted(94, malformed_json=4, empty_response=2).check_limit(0.06, "drop")


def test_on_bad_error_allows_none():
    counted(99).check_limit(0.05, "error")
    facts = ["1.0%", "wrong_type × 1", "data.on_bad=error"]
    with raises(DataError, "too_many_defects", key="data.on_bad", mentions=facts):
        counted(99, wrong_type=1).check_limit(0.05, "error")


def test_what_a_policy_drops_is_no_defect():
    accounting = counted(1, too_long=9)
    accounting.check_limit(0.0, "error")
    assert (accounting.dropped, accounting.defects) == (9, 0)


def test_lines_show_every_cause_and_the_lengths():
    accounting = counted(8, malformed_json=2)
    accounting.change("a.jsonl:9", ["prompt_cut_left", "boundary_merge", "boundary_merge"])
    text = "\n".join(accounting.lines())
    for part in ("rows read", "train", "held out", "dropped: malformed_json", "a.jsonl:1: seen", "tokens: chosen"):
        assert part in text
    assert accounting.changes["boundary_merge"].count == 1
    assert accounting.as_dict()["tokens"]["rejected"] == {"mean": 4.0, "median": 4.0, "p95": 4.0, "max": 4.0}


def test_excerpts_are_short_and_on_one_line():
    assert excerpt("a") == "'a'"
    assert excerpt("\n\u202ea") == r"'\n\u202ea'"
    assert len(excerpt("x" * 1000)) == 60


@given(st.lists(st.lists(st.sampled_from([None, *LOSSES]), max_size=8), max_size=5))
def test_counts_merge_as_if_counted_in_one(blocks):
    """They are equal after a round trip through JSON too."""
    whole, merged = Accounting(), Accounting()
    for i, block in enumerate(blocks):
        part = Accounting()
        for j, outcome in enumerate(block):
            for accounting in (whole, part):
                accounting.total += 1
                accounting.change(f"a:{i}.{j}", ["tie"])
                if outcome is None:
                    accounting.keep(example(prompt=1 + j), held_out=j % 2 == 1)
                else:
                    accounting.drop(f"a:{i}.{j}", Defect(outcome, "seen"))
        merged.merge(part)
    assert merged == whole
    assert Accounting.from_plain(json.loads(json.dumps(whole.to_plain()))) == whole


def test_leaving_rows_out_is_advised_only_while_most_are_good():
    for causes, setting in (({"wrong_type": 3}, "data.max_bad"), ({"wrong_type": 10}, None), ({"wrong_type": 6}, None)):
        for on_bad in ("drop", "error"):
            with raises(DataError, "too_many_defects") as caught:
                counted(10 - causes["wrong_type"], **causes).check_limit(0.05, on_bad)
            advice = str(caught.value).splitlines()[-1]
            assert ("data.max_bad" in advice) == (setting is not None and on_bad == "drop")
            assert ("data.on_bad" in advice) == (setting is not None and on_bad == "error")
