"""The page of several runs."""

import json
import re
from base64 import b64encode
from hashlib import sha256

import pytest

from support.errors import raises
from support.made_up_reports import HOSTILE, Page, change, contrast, gold, held_out, samples
from tiltlm.core import ConfigError, RunError
from tiltlm.report import ComparedRun, RunReport, write_comparison, write_report
from tiltlm.report.comparison.again import compare_again
from tiltlm.report.comparison.page import headline
from tiltlm.report.comparison.points import numbers, points_of


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


def test_the_page_is_made_again_from_what_the_folder_holds(tmp_path):
    runs = [run("a", 0.6), run("b", 0.75), ComparedRun("c", {"objective.beta": 3.0}, None, error="step 3: loss is NaN")]
    for made in runs[:2]:
        write_report(tmp_path / made.name, made.report)
    page = write_comparison(tmp_path, runs, title="Two", facts={"Model": "tiny"}, notes=("a note",))
    before, twin = page.read_text(), (tmp_path / "comparison.json").read_text()
    page.unlink()
    assert compare_again(tmp_path) == page
    assert (page.read_text(), (tmp_path / "comparison.json").read_text()) == (before, twin)

    write_report(tmp_path / "c", run("c", 0.9).report)  # it was continued by itself
    compare_again(tmp_path)
    assert json.loads((tmp_path / "comparison.json").read_text())["best"] == "c"
    (tmp_path / "a" / "report.json").unlink()
    with raises(RunError, "not_readable", mentions=[str(tmp_path / "a")]):
        compare_again(tmp_path)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("{", "not_a_report"),
        ("[]", "not_a_report"),
        ('{"schema": "tiltlm.comparison/1", "runs": [{"name": "a"}]}', "not_a_report"),
        ('{"schema": "tiltlm.comparison/9", "runs": []}', "other_version"),
    ],
)
def test_a_damaged_or_newer_comparison_is_refused(tmp_path, content, code):
    (tmp_path / "comparison.json").write_text(content)
    with raises(RunError, code, mentions=[str(tmp_path / "comparison.json")]):
        compare_again(tmp_path)


def test_names_are_needed_and_distinct(tmp_path):
    with raises(ConfigError, "duplicate", key="runs", mentions=["['a', 'a']"]):
        write_comparison(tmp_path, [run("a", 0.6), run("a", 0.7)])
    with raises(ConfigError, "empty", key="runs"):
        write_comparison(tmp_path, [])


def seeded(name: str, seed: int, accuracy: float, by_prompt=(), **knobs) -> ComparedRun:
    table = {f"p{i}": value for i, value in enumerate(by_prompt)}
    made = held_out(contrast(change(0.5, accuracy, 0.05)), accuracy_by_prompt=table)
    report = RunReport(name, held_out=made, samples=samples(kl=accuracy))
    return ComparedRun(name, {"objective.beta": 0.1, "training.seed": seed, **knobs}, report, f"{name}/report.html")


def test_seeds_are_repetitions_and_not_rivals(tmp_path):
    """0.60, 0.70, 0.65 have mean 0.65, s = 0.05, and t(2 degrees, 97.5 %) = 4.303."""
    accuracies = {("a", 0): 0.60, ("a", 1): 0.70, ("a", 2): 0.65, ("b", 0): 0.72, ("b", 1): 0.74, ("b", 2): 0.76}
    runs = [
        seeded(f"{name}{seed}", seed, value, **{"objective.beta": name}) for (name, seed), value in accuracies.items()
    ]
    first, second = points_of(runs)
    assert [len(point.runs) for point in (first, second)] == [3, 3]
    assert first.numbers["accuracy"].estimate == pytest.approx(0.65)
    assert first.numbers["accuracy"].high - 0.65 == pytest.approx(4.30265 * 0.05 / 3**0.5, rel=1e-5)
    assert headline(runs).best == "beta=b"
    _, page = page_of(tmp_path, runs)
    assert page.tags["table"] == 2, "the points, and each run"
    assert "3 seeds" in page.visible_text()
    twin = json.loads((tmp_path / "comparison.json").read_text())
    assert [point["runs"] for point in twin["points"]] == [["a0", "a1", "a2"], ["b0", "b1", "b2"]]


def test_a_failed_seed_is_counted(tmp_path):
    failed = ComparedRun("a1", {"objective.beta": 0.1, "training.seed": 1}, None, error="no")
    (point,) = points_of([seeded("a0", 0, 0.6), failed])
    assert point.numbers["accuracy"].low == 0.6 - 0.05
    _, page = page_of(tmp_path, [seeded("a0", 0, 0.6), failed])
    assert "2 seeds, 1 failed" in page.visible_text()


def test_points_are_paired_by_prompt(tmp_path):
    """Both accuracies have wide intervals, but one is better at almost every prompt."""
    low = seeded("low", 0, 0.60, [0.0, 1.0] * 30)
    high = seeded("high", 0, 0.70, [0.2, 1.2] * 30, **{"objective.beta": 0.2})
    other = seeded("other", 0, 0.69, [1.2, 0.0] * 30, **{"objective.beta": 0.3})
    found = headline([low, high, other])
    assert (found.best, found.within_reach) == ("high", ("other",))
    _, page = page_of(tmp_path, [low, high])
    assert "difference to the best" in page.visible_text()
    apart = seeded("apart", 0, 0.69, [1.0] * 7, **{"objective.beta": 0.3})  # other prompts: only intervals are left
    assert headline([high, apart]).within_reach == ("apart",)


def test_the_deciding_number_is_drawn_over_the_kl(tmp_path):
    html, _ = page_of(tmp_path, [seeded("a", 0, 0.6), seeded("b", 0, 0.7, **{"objective.beta": 0.2})])
    assert "over KL" in html
    html, _ = page_of(tmp_path, [run("a", 0.6, samples=samples(kl=None)), run("b", 0.7, samples=samples(kl=None))])
    assert "over KL" not in html


def test_a_caution_of_many_runs_is_one_list(tmp_path):
    runs = [run(name, 0.7, samples=samples(kl=25.0)) for name in "abc"]
    _, page = page_of(tmp_path, runs)
    assert page.named("data-caution") == ["large_kl"]
    assert page.tags["details"] == 1
    assert "large KL: 3 of 3 runs" in page.visible_text()


def test_a_share_over_seeds_stays_a_share():
    (point,) = points_of([seeded(f"a{seed}", seed, value) for seed, value in enumerate((0.8, 1.0))])
    assert point.numbers["accuracy"].high == 1.0
