"""The comparison recipe with files of answers: what it refuses, what it writes, and that nothing is paid twice."""

import json

import pandas as pd
import pytest

import tiltlm
from support.answered import Lengths, Says
from support.errors import raises
from tiltlm.core import ConfigError
from tiltlm.recipes.answers.systems import name_systems, trained_prompts


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Write the answers of two systems, and give judgements a cache of their own."""
    monkeypatch.setenv("TILTLM_CACHE", str(tmp_path / "cache"))
    for name, word in (("left", "good"), ("right", "fine and long")):
        rows = [{"prompt": f"p{i}", "completions": [f"{word} {i}"], "category": f"c{i % 2}"} for i in range(12)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in rows))
    return [tmp_path / "left.jsonl", tmp_path / "right.jsonl"]


def test_files_of_answers_are_compared_without_any_model(files, tmp_path):
    found = tiltlm.compare(files, judge=Lengths(), output=tmp_path / "out", markdown=True)
    (pair,) = found.comparison.pairs
    assert (pair.first, pair.second, pair.outcome) == ("left", "right", "second")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["compare.html", "compare.json", "compare.md"]
    assert repr(found).startswith("ComparedSystems: left, right\n  right beats left")
    assert "<iframe" in found._repr_html_()
    table = found.to_pandas()
    assert isinstance(table, pd.DataFrame)
    assert len(table) == 12
    assert set(table["p_first"]) == {0.0}
    assert found.summary().endswith("compare.html")


def test_the_same_comparison_asks_the_judge_nothing_again(files, tmp_path):
    judge = Says(lambda a, b: 0.9 if "good" in a else 0.3)
    first = tiltlm.compare(files, judge=judge, output=tmp_path / "1")
    asked = len(judge.asked)
    assert asked == 24
    assert tiltlm.compare(files, judge=judge, output=tmp_path / "2").comparison == first.comparison
    mirrored = tiltlm.compare(files[::-1], judge=judge, output=tmp_path / "3").comparison
    assert len(judge.asked) == asked
    assert mirrored.pairs[0].win_rate == first.comparison.pairs[0].win_rate.mirrored


def test_other_tools_get_files(files, tmp_path):
    judge = Says(lambda a, b: "left" if "good" in a else "right")
    tiltlm.compare(files, judge=judge, output=tmp_path / "out", export="alpaca_eval,arena_hard")
    annotations = json.loads((tmp_path / "out/alpaca_eval/annotations-left-against-right.json").read_text())
    assert {row["preference"] for row in annotations} == {2.0}
    assert (tmp_path / "out/arena_hard/left.jsonl").exists()
    games = [
        json.loads(line)["games"]
        for line in (tmp_path / "out/arena_hard/judgement-left-against-right.jsonl").read_text().splitlines()
    ]
    assert {(a["score"], b["score"]) for a, b in games} == {("B>A", "A>B")}
    again = tiltlm.compare(
        [tmp_path / "out/alpaca_eval/left.json", tmp_path / "out/arena_hard/right.jsonl"],
        judge=judge,
        output=tmp_path / "again",
    )
    assert again.comparison.pairs[0].win_rate.rate.estimate == 1.0


@pytest.mark.parametrize(
    ("options", "code", "key"),
    [
        ({"judge": None}, "missing_setting", "judge"),
        ({"n": 2}, "no_effect", "n"),
        ({"temperatures": "0,1"}, "no_effect", "temperatures"),
        ({"baseline": "z"}, "unknown_name", "baseline"),
        ({"export": "csv"}, "unknown_name", "export"),
        ({"resume": True, "overwrite": True}, "conflict", "resume"),
        ({"detect": 0.1}, "no_effect", "detect"),
        ({"judge": "clairvoyant"}, "unknown_name", "judge.kind"),
    ],
)
def test_wrong_use_is_refused(files, tmp_path, options, code, key):
    with raises(ConfigError, code=code, key=key):
        tiltlm.compare(files, **{"judge": Lengths(), "output": tmp_path / "out", **options})
    assert not (tmp_path / "out").exists()


def test_one_system_is_refused(files):
    with raises(ConfigError, code="too_few_systems", key="systems"):
        tiltlm.compare(files[:1], judge=Lengths())


def test_a_model_needs_prompts(files, tmp_path):
    with raises(ConfigError, code="missing_setting", key="prompts"):
        tiltlm.compare([files[0], "some/model"], judge=Lengths(), output=tmp_path / "out")


def test_a_folder_with_content_is_refused(files, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("!")
    with raises(ConfigError, code="not_empty", key="output"):
        tiltlm.compare(files, judge=Lengths(), output=tmp_path / "out")


def test_names_of_systems(files, tmp_path):
    found = name_systems([files[0], f"mine={files[0]}", files[0], "owner/model"])
    assert [(one.name, one.kind) for one in found] == [
        ("left", "answers"),
        ("mine", "answers"),
        ("left (2)", "answers"),
        ("owner/model", "model"),
    ]
    run = tmp_path / "dpo"
    (run / "model").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    (one, two) = name_systems([run, run / "model"])
    assert (one.name, one.kind, one.model) == ("dpo", "run", str(run / "model"))
    assert (two.name, two.kind) == ("dpo (2)", "model")
    (run / "model").rmdir()
    with raises(ConfigError, code="no_model", key="systems"):
        name_systems([run])


def test_a_setting_of_the_judge_is_no_system():
    with raises(ConfigError, "wrong_type", key="systems", mentions=["judge.allow_self=true", "--judge"]):
        name_systems(["judge.allow_self=true"])


def test_prompts_of_a_run_are_unknown_where_its_data_is_gone(tmp_path):
    assert trained_prompts(tmp_path) is None
    (tmp_path / "config.yaml").write_text("data: {train: gone.jsonl}\n")
    assert trained_prompts(tmp_path) is None


def test_a_plan_needs_no_systems():
    plan = tiltlm.compare(plan=True, detect=0.1, price=0.01)
    assert (plan.num_prompts, plan.num_calls) == (194, 388)
    assert plan.cost == pytest.approx(3.88)
    assert "194" in plan.summary()
    with raises(ConfigError, code="no_effect", key="judge"):
        tiltlm.compare(plan=True, judge="gold")
