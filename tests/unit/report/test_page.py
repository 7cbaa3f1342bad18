"""The page of a run: what it says, that it stands alone, and that nothing in it can run."""

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
from tiltlm.report import RunReport, read_run, render, series_of, write_report
from tiltlm.report.page import when


@cache
def whole_page() -> str:
    return render(whole())


def test_the_page_says_what_the_report_holds():
    said = Page(whole_page()).said().replace("\N{NO-BREAK SPACE}", " ")
    for text in (
        "dpo on some pairs", "tiny-lm", "Yes, it helped", "Ranking accuracy", "70 %", "65 to 75", "+20 pts", "KL",
        "In the hall.", "Hello, in the hall!", "reward 3", "empty_response", "rows.jsonl:7", "5.0 %", "beta: 0.1",
        "2.13.0", "abc123", "layout shared", "tiltlm train run.yaml", "What was possible", "80 % (70 to 90)",
    ):  # fmt: skip
        assert text in said, text


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


def test_numbers_that_are_none_survive_the_twin(tmp_path):
    nan = Interval(math.nan, math.nan, math.inf, 0.95, 1)
    report = quick(held_out=held_out(contrast(length_accuracy=nan)))
    write_report(tmp_path, report)
    assert "NaN" in (tmp_path / "report.json").read_text()
    found = read_run(tmp_path).held_out.contrast.length_accuracy
    assert math.isnan(found.estimate)
    assert found.high == math.inf
    assert "not a number" in Page((tmp_path / "report.html").read_text()).said()


def hostile_report() -> RunReport:
    """Hostile text wherever a stranger's text can be."""
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
    page = Page(html)
    assert page.tags["script"] == page.tags["img"] == 0
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert page.said().count("<script>alert('x')</script>") >= 10
    assert "49" not in re.findall(r"\d+", page.said().split("Versions")[1])
    assert page.tags["style"] == page.tags["main"] == 1


def test_the_page_stands_alone():
    html = whole_page()
    page = Page(html)
    assert page.loads() == []
    assert page.tags["script"] == 0
    assert not re.search(r"https?:|//[a-z]|@import|xmlns", html)
    assert set(re.findall(r"url\(([^)]*)\)", html)) <= {f"#{i}" for _, name, i in page.attributes if name == "id"}
    policy = next(v for tag, name, v in page.attributes if tag == "meta" and "default-src" in v)
    assert policy.startswith("default-src 'none'")
    assert "script-src" not in policy


def test_ids_are_unique_and_every_use_finds_its_own():
    page = Page(render(whole(held_out=held_out(contrast(), change(2.0, 1.5)))))
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids)) > 20
    assert {v[1:] for tag, name, v in page.attributes if tag == "use" and name == "href"} <= set(ids)


def test_a_large_run_makes_a_small_page():
    long = "word " * 20_000
    report = whole(
        series=series_of(history(5_000)),
        samples=samples(texts=tuple(SampleText(long, (long,) * 4, (long,) * 4) for _ in range(8))),
        notes=(long,) * 20,
        config={f"key{i}": long for i in range(3)},
    )
    assert len(render(report).encode()) < 1_000_000


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("held_out", "Nothing was held out"),
        ("samples", "The policy was not sampled"),
        ("data", "No accounting of the data was kept"),
    ],
)
def test_a_missing_part_is_said(missing, sentence):
    assert sentence not in Page(whole_page()).said()
    assert sentence in Page(render(replace(quick(), **{missing: None}))).said()


def test_without_a_gold_reward_there_is_no_frontier():
    assert "What was possible" in Page(whole_page()).said()
    assert "What was possible" not in Page(render(quick(gold=None))).said()


def test_a_run_of_which_nothing_is_known():
    said = Page(render(RunReport("bare"))).said()
    for text in ("bare", "Not measured", "No metrics were recorded", "The policy was not sampled"):
        assert text in said


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


def test_without_a_reference_the_page_says_there_is_no_kl():
    assert "there is no KL" in Page(render(quick(samples=samples(kl=None)))).said()


def test_long_prompts_keep_their_end():
    prompt = "old " * 500 + "and the question?"
    said = Page(render(quick(samples=samples(texts=(SampleText(prompt, ("a",), ("b",)),))))).said()
    assert "and the question?" in said
    assert "more characters]" in said


@pytest.mark.parametrize(
    ("created", "shown"), [("2026-11-20T12:34:56+00:00", "2026-11-20 12:34 UTC"), ("", ""), ("yesterday", "yesterday")]
)
def test_when(created, shown):
    assert when(created) == shown


def test_the_same_report_is_the_same_page():
    assert whole_page() == render(whole())


def test_empty_and_broken_texts(tmp_path):
    texts = (SampleText("", ("",), ("\ud800 half a pair\x00",)),)
    write_report(tmp_path, quick(samples=samples(texts=texts)))
    said = Page((tmp_path / "report.html").read_text(encoding="utf-8")).said()
    assert "(nothing)" in said
    assert "half a pair" in said


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
def test_what_is_no_report_is_refused(tmp_path, content, code, seen):
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    with raises(RunError, code, mentions=[str(tmp_path / "report.json"), seen]):
        read_run(tmp_path)
