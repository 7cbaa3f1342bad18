"""The page of several runs."""

import json
import re
from base64 import b64encode
from hashlib import sha256

from support.errors import raises
from support.made_up_reports import HOSTILE, Page, change, contrast, gold, held_out, samples
from tiltlm.core import ConfigError
from tiltlm.report import ComparedRun, RunReport, write_comparison
from tiltlm.report.comparison import headline, numbers


def run(name: str, accuracy: float, half: float = 0.05, **parts) -> ComparedRun:
    made = held_out(contrast(change(0.5, accuracy, half)))
    report = RunReport(name, **{"held_out": made, "samples": samples()} | parts)
    return ComparedRun(name, {"objective.beta": accuracy}, report, f"{name}/report.html")


def page_of(tmp_path, runs, **settings) -> tuple[str, Page]:
    html = write_comparison(tmp_path, runs, **settings).read_text(encoding="utf-8")
    return html, Page(html)


def test_runs_side_by_side(tmp_path):
    html, page = page_of(tmp_path, [run("a", 0.6), run("b", 0.75)], title="Two", facts={"Model": "tiny"})
    visible = page.visible_text()
    for text in ("Two", "tiny", "objective.beta", "60 % 55 to 65", "75 % 70 to 80"):
        assert text in visible, text
    assert page.named("data-best") == ["b"]
    assert [v for tag, name, v in page.attributes if tag == "a" and name == "href"] == [
        "a/report.html",
        "b/report.html",
    ]
    assert page.loads() == ["a/report.html", "b/report.html"]
    assert not re.search(r"https?:|@import|xmlns", html)


def test_only_our_script_may_run(tmp_path):
    html, page = page_of(tmp_path, [run(HOSTILE, 0.6)], title=HOSTILE, facts={HOSTILE: HOSTILE}, notes=(HOSTILE,))
    (source,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = b64encode(sha256(source.encode()).digest()).decode()
    policy = next(v for tag, name, v in page.attributes if tag == "meta" and "default-src" in v)
    assert f"script-src 'sha256-{digest}'" in policy
    assert page.tags["script"] == 1
    assert page.tags["img"] == 0
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]


def test_links_stay_within_the_folder_of_the_page(tmp_path):
    sneaky = ComparedRun("x", {}, run("x", 0.6).report, "javascript:alert(1)")
    spaced = ComparedRun("y", {}, run("y", 0.6).report, "a b#c?d/report.html")
    _, page = page_of(tmp_path, [sneaky, spaced])
    assert page.loads() == ["javascript%3Aalert%281%29", "a%20b%23c%3Fd/report.html"]


def test_a_failed_run_is_shown_as_failed(tmp_path):
    failed = ComparedRun("bad", {"objective.beta": 9}, None, error="3 steps in a row could not be taken")
    _, page = page_of(tmp_path, [run("good", 0.6), failed])
    assert "failed" in page.named("data-value")
    assert "3 steps in a row could not be taken" in page.visible_text()
    twin = json.loads((tmp_path / "comparison.json").read_text())
    assert twin["runs"][1]["verdict"] is None
    assert twin["runs"][1]["error"].startswith("3 steps")


def test_only_failed_runs_still_make_a_page(tmp_path):
    _, page = page_of(tmp_path, [ComparedRun("bad", {}, None, error="no")])
    assert page.named("data-best") == []
    assert page.tags["svg"] == 0


def test_the_twin_holds_the_same_numbers(tmp_path):
    runs = [run("a", 0.6), run("b", 0.75)]
    write_comparison(tmp_path, runs)
    twin = json.loads((tmp_path / "comparison.json").read_text())
    assert twin["schema"] == "tiltlm.comparison/1"
    for written, run_ in zip(twin["runs"], runs, strict=True):
        assert written["numbers"]["accuracy"]["estimate"] == run_.report.held_out.contrast.accuracy.after.estimate
        assert written["knobs"] == run_.knobs
    found = headline(runs)
    assert (twin["headline"], twin["best"], twin["decided_by"]) == (found.sentence, found.best, found.measure)
    assert twin["within_reach"] == list(found.within_reach)


def test_the_headline_names_the_best_run_and_those_within_reach():
    clear = headline([run("a", 0.6), run("b", 0.75)])
    assert (clear.best, clear.measure, clear.within_reach) == ("b", "accuracy", ())
    close = headline([run("a", 0.6), run("c", 0.74), run("b", 0.75)])
    assert (close.best, close.within_reach) == ("b", ("c",))
    assert headline([run("a", 0.6)]).best == "a"
    assert headline([]).best is None


def test_the_deciding_measure_is_one_that_all_runs_have():
    by_nll = [
        run(n, 0.6, held_out=held_out(contrast(), change(2.0, x, 0.01))) for n, x in (("low", 1.5), ("high", 1.9))
    ]
    assert (headline(by_nll).measure, headline(by_nll).best) == ("nll", "low")
    assert headline([*by_nll, run("b", 0.75)]).measure == "accuracy"
    both = [run("x", 0.6, gold=gold(policy=3.0)), run("y", 0.9, gold=gold(policy=2.0))]
    assert (headline(both).measure, headline(both).best) == ("gold_reward", "x")


def test_numbers_of_a_bare_report():
    assert numbers(RunReport("bare")) == {}
    assert numbers(RunReport("bare", samples=samples(kl=None))).keys() == {"length"}
    assert numbers(RunReport("gold", samples=samples(kl=9.0), gold=gold()))["kl"].estimate == 0.9


def test_cautions_of_a_run_are_on_the_page(tmp_path):
    _, page = page_of(tmp_path, [run("a", 0.6), run("far", 0.7, samples=samples(kl=25.0))])
    assert page.named("data-caution") == ["large_kl"]


def test_names_are_needed_and_distinct(tmp_path):
    with raises(ConfigError, "duplicate", key="runs", mentions=["['a', 'a']"]):
        write_comparison(tmp_path, [run("a", 0.6), run("a", 0.7)])
    with raises(ConfigError, "empty", key="runs"):
        write_comparison(tmp_path, [])
