"""The quickstart: reward rises, at a small KL, to at least half of the largest possible gain."""

import json

import pytest

import tiltlm
from tiltlm.worlds import TextWorld


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiltlm.quickstart(output=tmp_path_factory.mktemp("runs") / "quickstart")


@pytest.mark.slow
def test_quickstart(run):
    report = json.loads((run.path / "report.json").read_text())
    gold, attained = report["gold"], report["gold"]["attainment"]
    assert report["command"] == "tiltlm quickstart --output NEW_FOLDER --seed 0"
    assert attained["gain"]["low"] > 0
    assert attained["policy"]["low"] <= attained["attainable"]["high"]  # nothing beats the frontier
    assert attained["share"]["estimate"] >= 0.5
    assert attained["effective_samples"] >= 50
    assert 0 < attained["kl"]["estimate"] <= 4
    assert gold["win_rate"]["low"] > 0.5
    assert gold["reference_samples"] >= 256
    assert report["samples"]["before"]["cut_share"] <= 0.1
    steps = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert abs(next(s for s in steps if "eval_loss" in s)["eval_rewards/margins"]) < 1e-4
    page = (run.path / "report.html").read_text()
    assert page.count("<svg") >= 3
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    rows = [json.loads(line) for line in (run.path / "comparisons.jsonl").read_text().splitlines()]
    assert len(rows[0]["completions"]) == 8
    assert len(rows[0]["comparisons"]) == 28


@pytest.mark.slow
def test_a_comparison_agrees_with_the_report(run, tmp_path, monkeypatch):
    """Other samples of the same two policies, judged by the gold reward: the win rates agree within their intervals."""
    monkeypatch.setenv("TILTLM_CACHE", str(tmp_path))
    report = json.loads((run.path / "report.json").read_text())
    found = tiltlm.compare(
        [run.path, TextWorld().model_path()],
        prompts=run.path / "held-out.jsonl",
        judge="gold",
        n=16,
        max_new_tokens=32,
        output=tmp_path / "comparison",
    )
    (pair,) = found.comparison.pairs
    expected = report["gold"]["win_rate"]
    assert pair.outcome == "first"
    assert pair.win_rate.rate.low <= expected["high"]
    assert expected["low"] <= pair.win_rate.rate.high
    assert found.comparison.systems[0].trained_on == 0  # none of the held-out prompts
