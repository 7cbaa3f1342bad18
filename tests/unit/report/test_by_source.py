"""The table of sources on a page, and the caution about a source that got worse."""

import json
from dataclasses import replace

from support.made_up_reports import change, contrast, held_out
from tiltlm.evaluation.held_out import SourceChange
from tiltlm.report import RunReport, verdict_of
from tiltlm.report.by_source import source_tables
from tiltlm.report.run_report import SCHEMA, from_json, to_plain


def source(accuracy=None, margin=None, nll=None) -> SourceChange:
    return SourceChange(40, 30, accuracy, margin, nll)


def test_a_row_for_each_source_and_only_measured_columns():
    found = held_out(contrast(), by_source={"a": source(change(0.5, 0.7), change(0, 1)), "b": source()})
    (table,) = source_tables(found)
    assert table.columns == (
        "rows", "prompts", "accuracy, trained", "accuracy, difference", "margin, trained", "margin, difference",
    )  # fmt: skip
    assert [row.name for row in table.rows] == ["a", "b"]
    assert [cell.value for cell in table.rows[0].cells] == ["40", "30", "70\xa0%", "+20\xa0pts", "1.00", "+1.00"]
    assert [cell.value for cell in table.rows[1].cells[2:]] == ["–"] * 4


def test_no_table_without_sources_or_numbers():
    assert list(source_tables(None)) == []
    assert list(source_tables(held_out(contrast()))) == []
    assert list(source_tables(held_out(contrast(), by_source={"a": source(), "b": source()}))) == []


def test_a_source_that_got_worse_is_a_caution():
    def cautions(after: float) -> list[str]:
        sources = {"good": source(change(0.5, 0.7)), "bad": source(change(0.5, after))}
        report = RunReport("run", held_out=held_out(contrast(), by_source=sources))
        return [caution.key for caution in verdict_of(report).cautions]

    assert "source_worse" in cautions(0.3)
    assert "source_worse" not in cautions(0.45), "the interval has 0 in it"


def test_sources_are_in_report_json():
    report = RunReport("run", held_out=held_out(contrast(), by_source={"a": source(nll=change(2.0, 1.5))}))
    text = json.dumps({"schema": SCHEMA, **to_plain(report)})
    assert from_json(text, "x").held_out.by_source == report.held_out.by_source
    older = json.loads(text)
    del older["held_out"]["by_source"]
    assert from_json(json.dumps(older), "x").held_out == replace(report.held_out, by_source={})
