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
    said = page.said().replace("\N{NO-BREAK SPACE}", " ")
    for text in ("Two", "tiny", "objective.beta", "60 % 55 to 65", "75 % 70 to 80", "By held-out ranking accuracy, b"):
        assert text in said, text
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
    assert "failed 3 steps in a row" in page.said()
    twin = json.loads((tmp_path / "comparison.json").read_text())
    assert twin["runs"][1]["verdict"] is None
    assert twin["runs"][1]["error"].startswith("3 steps")


def test_only_failed_runs_still_make_a_page(tmp_path):
    _, page = page_of(tmp_path, [ComparedRun("bad", {}, None, error="no")])
    assert "none of them can be called the best" in page.said()
    assert page.tags["svg"] == 0


def test_the_twin_holds_the_same_numbers(tmp_path):
    runs = [run("a", 0.6), run("b", 0.75)]
    write_comparison(tmp_path, runs)
    twin = json.loads((tmp_path / "comparison.json").read_text())
    assert twin["schema"] == "tiltlm.comparison/1"
    for told, given in zip(twin["runs"], runs, strict=True):
        assert told["numbers"]["accuracy"]["estimate"] == given.report.held_out.contrast.accuracy.after.estimate
        assert told["knobs"] == given.knobs
    assert twin["headline"] == headline(runs)


def test_the_headline_tells_a_lead_from_a_tie():
    assert "b comes out first" in headline([run("a", 0.6), run("b", 0.75)])
    assert "No other run's interval reaches" in headline([run("a", 0.6), run("b", 0.75)])
    assert "1 of the 2 others" in headline([run("a", 0.6), run("c", 0.74), run("b", 0.75)])
    assert headline([run("a", 0.6)]).endswith(").")


def test_what_decides_is_what_all_runs_have():
    by_nll = [
        run(n, 0.6, held_out=held_out(contrast(), change(2.0, x, 0.01))) for n, x in (("low", 1.5), ("high", 1.9))
    ]
    assert "By held-out nll, nats per token, low comes" in headline(by_nll)
    assert "By held-out ranking accuracy" in headline([*by_nll, run("b", 0.75)])
    both = [run("x", 0.6, gold=gold(policy=3.0)), run("y", 0.9, gold=gold(policy=2.0))]
    assert "By gold reward, x" in headline(both)


def test_numbers_of_a_bare_report():
    assert numbers(RunReport("bare")) == {}
    assert numbers(RunReport("bare", samples=samples(kl=None))).keys() == {"length"}
    assert numbers(RunReport("gold", samples=samples(kl=9.0), gold=gold()))["kl"].estimate == 0.9


def test_names_are_needed_and_distinct(tmp_path):
    with raises(ConfigError, "duplicate", key="runs", mentions=["['a', 'a']"]):
        write_comparison(tmp_path, [run("a", 0.6), run("a", 0.7)])
    with raises(ConfigError, "empty", key="runs"):
        write_comparison(tmp_path, [])
