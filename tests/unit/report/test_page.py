"""The page of a run: its content, and that it loads and runs nothing."""

import json
import math
import re
from dataclasses import replace
from functools import cache

import pytest

from support.errors import raises
from support.made_up_reports import (
    DATA,
    HOSTILE,
    Page,
    change,
    contrast,
    gold,
    held_out,
    history,
    interval,
    quick,
    samples,
    whole,
)
from tiltlm.core import RunError
from tiltlm.diagnostics import Interval
from tiltlm.evaluation import SampleText
from tiltlm.report import RunReport, page, read_run, render, series_of, verdict, write_report
from tiltlm.report.sections import SECTIONS, Remark, Section
from tiltlm.report.tables import Cell, Table, TableRow
from tiltlm.report.texts import date_text

KEYS = [section.key for section in SECTIONS]


@cache
def whole_page() -> str:
    return render(whole())


def test_the_page_shows_what_the_report_holds():
    shown = Page(whole_page())
    for text in (
        "dpo on some pairs", "tiny-lm", "70 %", "65 to 75", "+20 pts", "In the hall.", "Hello, in the hall!",
        "reward 3", "empty_response", "rows.jsonl:7", "5.0 %", "beta: 0.1", "2.13.0", "abc123", "layout shared",
        "tiltlm train run.yaml", "80 % (70 to 90)", "Likeliest response changed", "Heaviest tenth",
        "Goes with the shift",
    ):  # fmt: skip
        assert text in shown.visible_text(), text
    assert shown.named("data-outcome") == ["better"]
    assert [i for i in shown.named("id") if i in KEYS] == KEYS
    assert {"accuracy", "margin", "better_total", "share_fell", "length_rule", "kl", "length"} <= set(
        shown.named("data-row")
    )


def test_the_twin_holds_the_same_numbers(tmp_path):
    report = whole()
    assert write_report(tmp_path, report) == tmp_path / "report.html"
    assert read_run(tmp_path) == report
    twin = json.loads((tmp_path / "report.json").read_text())
    assert twin["schema"] == "tiltlm.report/1"
    assert twin["verdict"]["outcome"] == "better"
    assert twin["held_out"]["contrast"]["accuracy"]["after"]["estimate"] == 0.7
    assert twin["gold"]["attainment"]["share"]["high"] == pytest.approx(0.9)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.json"]


def test_a_kill_before_the_page_leaves_no_finished_run(tmp_path, monkeypatch):
    """A run with report.json is finished, and a sweep keeps it: so the page must be there before."""

    def killed(path, text):
        raise KeyboardInterrupt

    monkeypatch.setattr(page, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        write_report(tmp_path, quick())
    assert not list(tmp_path.iterdir())
    written = []
    monkeypatch.setattr(page, "write", lambda path, text: written.append(path.name))
    write_report(tmp_path, quick())
    assert written == ["report.html", "report.json"]


def test_numbers_that_are_not_finite_survive_the_twin(tmp_path):
    nan = Interval(math.nan, math.nan, math.inf, 0.95, 1)
    report = quick(held_out=held_out(contrast(length_accuracy=nan)))
    write_report(tmp_path, report)
    assert "NaN" in (tmp_path / "report.json").read_text()
    found = read_run(tmp_path).held_out.contrast.length_accuracy
    assert math.isnan(found.estimate)
    assert found.high == math.inf
    assert "not a number" in Page((tmp_path / "report.html").read_text()).visible_text()


def hostile_report() -> RunReport:
    """Return a report with hostile text wherever text of users can be."""
    data = json.loads(json.dumps(DATA).replace("rows.jsonl:7: ''", json.dumps(HOSTILE)[1:-1]))
    return whole(
        title=HOSTILE,
        facts={HOSTILE: HOSTILE},
        samples=samples(texts=(SampleText(HOSTILE, (HOSTILE,), (HOSTILE,)),)),
        gold=replace(gold(), reward_name=HOSTILE),
        data={**data, "losses": {HOSTILE: {"rows": 1, "meaning": HOSTILE, "examples": [HOSTILE]}}},
        config={HOSTILE: HOSTILE},
        versions={HOSTILE: HOSTILE},
        digests={HOSTILE: HOSTILE},
        notes=(HOSTILE,),
        command=HOSTILE,
        created=HOSTILE,
    )


def test_hostile_text_is_shown_and_nothing_else():
    html = render(hostile_report())
    shown = Page(html)
    assert shown.tags["script"] == shown.tags["img"] == 0
    assert not [name for _, name, _ in shown.attributes if name.startswith("on")]
    visible = shown.visible_text()
    assert visible.count("<script>alert('x')</script>") == visible.count("{{ 7*7 }}") >= 10
    assert shown.tags["style"] == shown.tags["main"] == 1


def test_the_page_stands_alone():
    html = whole_page()
    shown = Page(html)
    assert shown.loads() == []
    assert shown.tags["script"] == 0
    assert not re.search(r"https?:|//[a-z]|@import|xmlns", html)
    assert set(re.findall(r"url\(([^)]*)\)", html)) <= {f"#{i}" for i in shown.named("id")}
    policy = next(v for tag, name, v in shown.attributes if tag == "meta" and "default-src" in v)
    assert policy.startswith("default-src 'none'")
    assert "script-src" not in policy


def test_ids_are_unique_and_every_use_finds_its_own():
    shown = Page(render(whole(held_out=held_out(contrast(), change(2.0, 1.5)))))
    ids = shown.named("id")
    assert len(ids) == len(set(ids)) > 20
    assert {v[1:] for tag, name, v in shown.attributes if tag == "use" and name == "href"} <= set(ids)


def test_a_large_run_makes_a_small_page():
    long = "word " * 20_000
    report = whole(
        series=series_of(history(5_000)),
        samples=samples(texts=tuple(SampleText(long, (long,) * 4, (long,) * 4) for _ in range(8))),
        notes=(long,) * 20,
        config={f"key{i}": long for i in range(3)},
    )
    assert len(render(report).encode()) < 1_000_000


@pytest.mark.parametrize(("missing", "key"), [("held_out", "held_out"), ("samples", "no_samples"), ("data", "data")])
def test_a_missing_part_is_named_on_the_page(missing, key):
    assert Page(whole_page()).named("data-absent") == []
    assert Page(render(replace(whole(), **{missing: None}))).named("data-absent") == [key]


def test_without_a_gold_reward_there_is_no_frontier():
    assert "possible" in Page(whole_page()).named("id")
    assert "possible" not in Page(render(quick(gold=None))).named("id")


def test_a_run_of_which_nothing_is_known():
    shown = Page(render(RunReport("bare")))
    assert "bare" in shown.visible_text()
    assert shown.named("data-outcome") == ["unmeasured"]
    assert shown.named("data-absent") == ["held_out", "training", "no_samples", "data"]


@pytest.mark.parametrize(
    "report",
    [
        quick(samples=samples(kl=None)),
        quick(gold=None, held_out=held_out(nll=change(2.0, 1.5))),
        quick(gold=None, held_out=held_out(contrast(kind="unpaired", seq_accuracy=None, mean_accuracy=None))),
        quick(held_out=held_out(contrast(), starts_at_reference=False)),
        whole(series=series_of([{"step": 1, "loss": 0.5}])),
        quick(gold=replace(gold(), tilt=replace(gold().tilt, **dict.fromkeys(vars(gold().tilt), ())))),
        quick(held_out=held_out(contrast(accuracy=replace(change(0.5, 0.7), after=interval(0.7, math.nan))))),
    ],
    ids=["no reference", "sft", "unpaired", "no anchor", "one step", "no frontier", "one prompt"],
)
def test_every_kind_of_run_has_a_page(report, tmp_path):
    write_report(tmp_path, report)
    Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "NaN" not in re.sub(r"<[^>]*>", "", (tmp_path / "report.html").read_text(encoding="utf-8"))


def test_without_a_reference_there_is_no_kl():
    shown = Page(render(quick(samples=samples(kl=None))))
    assert "no_kl" in shown.named("data-absent")
    assert "kl" not in shown.named("data-row")
    assert "length" in shown.named("data-row")


def test_training_accuracy_is_shown_even_if_nothing_was_held_out():
    shown = Page(render(quick(held_out=None, training_accuracy=interval(0.93, 0.01))))
    assert "held_out" in shown.named("data-absent")
    assert "training_accuracy" in shown.named("data-row")
    assert "93.0 %" in shown.visible_text()


def test_a_new_section_needs_only_its_entry_in_the_list(monkeypatch):
    """A section in the list is shown, and its cautions are beside the verdict; nothing else names it."""
    extra = Section[str](
        "extra",
        "Extra",
        measure=lambda report: report.title,
        rows=lambda title: [Table(("value",), (TableRow("extra_row", title, (Cell("42"),)),))],
        cautions=lambda title: [Remark("extra_caution", f"{title} is new.")],
    )
    for module in (page, verdict):
        monkeypatch.setattr(module, "SECTIONS", (*SECTIONS, extra))
    shown = Page(render(quick()))
    assert "extra" in shown.named("id")
    assert "extra_row" in shown.named("data-row")
    assert shown.named("data-caution") == ["extra_caution"]


def test_long_prompts_keep_their_end():
    prompt = "old " * 500 + "and the question?"
    visible = Page(render(quick(samples=samples(texts=(SampleText(prompt, ("a",), ("b",)),))))).visible_text()
    assert "and the question?" in visible
    assert prompt not in visible


@pytest.mark.parametrize(
    ("created", "shown"), [("2026-11-20T12:34:56+00:00", "2026-11-20 12:34 UTC"), ("", ""), ("yesterday", "yesterday")]
)
def test_dates(created, shown):
    assert date_text(created) == shown


def test_the_same_report_is_the_same_page():
    assert whole_page() == render(whole())


def test_empty_and_broken_texts(tmp_path):
    texts = (SampleText("", ("",), ("\ud800 half a pair\x00",)),)
    write_report(tmp_path, quick(samples=samples(texts=texts)))
    shown = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert shown.named("class").count("response before") == 1
    assert "half a pair" in shown.visible_text()


def test_writing_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with raises(RunError, "not_writable", mentions=[str(tmp_path / "file")]):
        write_report(tmp_path / "file", whole())


@pytest.mark.parametrize(
    ("content", "code", "seen"),
    [
        (None, "not_readable", ""),
        ("{", "not_a_report", "JSONDecodeError"),
        ("[]", "not_a_report", ""),
        ('{"title": "x"}', "not_a_report", "schema"),
        ('{"schema": "tiltlm.report/99"}', "other_version", "tiltlm.report/99"),
        (
            '{"schema": "tiltlm.report/1", "title": "x", "held_out": {"num_examples": "many"}}',
            "damaged",
            "num_examples",
        ),
    ],
)
def test_other_files_are_refused(tmp_path, content, code, seen):
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    with raises(RunError, code, mentions=[str(tmp_path / "report.json"), seen]):
        read_run(tmp_path)


def test_words_are_explained_where_they_first_stand():
    visible = Page(render(quick(gold=None))).visible_text()
    assert visible.index("Nat.") < visible.index("On held-out data")
    assert "Margin." not in Page(render(quick())).visible_text(), "a page without a margin among its tiles"
