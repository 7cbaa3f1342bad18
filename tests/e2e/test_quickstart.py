"""The quickstart: reward rises, at a small KL, to at least half of the largest possible gain."""

import json

import pytest

import tiltlm


@pytest.mark.slow
def test_quickstart(tmp_path):
    run = tiltlm.quickstart(output=tmp_path / "quickstart")
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
