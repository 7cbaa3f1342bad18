"""From labelled pairs to an audit that other commands read."""

import json
import random

import pytest
from typer.testing import CliRunner

import tiltlm
from support.errors import raises
from support.fake_server import Say, fake_server, first_token
from tiltlm.cli.main import app
from tiltlm.core import ConfigError, DataError, RunError
from tiltlm.judging import JudgementCache, PairItem, both_orders, build_judge, cached


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TILTLM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def data(tmp_path):
    """Pairs whose better response is usually, not always, the longer one."""
    rng = random.Random(0)
    rows = [
        {"prompt": f"question {k}", "chosen": "good " * rng.randint(2, 30), "rejected": "bad " * rng.randint(1, 20)}
        for k in range(220)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_an_audit_is_read_where_the_judge_is_used(data, tmp_path):
    result = tiltlm.judge_audit(data=data, judge="length", output=tmp_path / "audit.json")
    written = json.loads(result.path.read_text())
    assert written["schema"] == "tiltlm.audit/1"
    assert (written["digest"], written["scale"]) == (build_judge("length").digest, result.scale)
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    right = [1.0 if (g := len(r["chosen"]) - len(r["rejected"])) > 0 else 0.5 if g == 0 else 0.0 for r in rows]
    assert result.audit.accuracy.estimate == pytest.approx(sum(right) / len(right))
    assert result.audit.flips is None
    assert result.audit.canaries.attacked.estimate > result.audit.canaries.plain.estimate, "attacks make it longer"
    assert build_judge({"kind": "length", "audit": str(result.path)}).scale == result.scale
    assert "accuracy" in set(result.to_pandas()["number"])
    assert repr(result).startswith("AuditedJudge: length")
    page = result.page.read_text()
    assert 'data-row="kappa"' in page
    assert "<script" not in page
    judged = tiltlm.judge(data=data, judge={"kind": "length", "audit": str(result.path)}, output=tmp_path / "j.jsonl")
    assert judged.num_calls == 0, "everything was judged by the audit"
    with raises(ConfigError, "other_judge"):
        build_judge({"kind": "gold", "audit": str(result.path)})


def by_first_letter(p):
    """Judge that likes `good` with a probability, and the first position a little."""

    def reply(request, _):
        if "messages" not in request:
            return Say(404, {})
        text = request["messages"][0]["content"]
        first = text.split("BEGIN FIRST ANSWER")[1].split("\n")[1]
        from math import log

        good = p if first.startswith("good") else 1 - p
        good = min(0.99, good + 0.02)
        return first_token({"A": log(good), "B": log(1 - good)})

    return reply


def test_probabilities_of_a_judge_are_calibrated_after_the_cache(data, tmp_path):
    with fake_server(by_first_letter(0.9)) as server:
        settings = {"kind": "pairwise", "model": "judge-1", "url": server.url, "mode": "logprobs", "ties": False}
        result = tiltlm.judge_audit(data=data, judge=settings, output=tmp_path / "audit.json", canaries=10, retest=20)
        audit = result.audit
        assert (audit.accuracy.estimate, audit.flips.estimate, audit.first_slot.estimate) == (1.0, 0.0, 0.5)
        assert audit.retest.estimate == 0.0
        assert audit.retest_noise.estimate == pytest.approx(0.0, abs=1e-12)
        assert len(server.requests) == 2 * (220 + 10 + 20)
        assert result.cost is None
        with JudgementCache(tmp_path / "other") as cache:
            plain = build_judge(settings)
            tempered = build_judge({**settings, "scale": 2.0})
            pair = [PairItem("p", "good", "bad")]
            one, two = (both_orders(cached(judge, cache), pair)[0].p for judge in (plain, tempered))
        assert two / (1 - two) == pytest.approx((one / (1 - one)) ** 0.5)
    with fake_server(by_first_letter(0.9)) as server:
        assert not server.requests
    out = CliRunner().invoke(app, ["judge-audit", str(data), "--judge", "length", "--output", str(tmp_path / "b.json")])
    assert out.exit_code == 0, out.output
    assert "Cohen's κ" in out.output


def test_what_an_audit_cannot_work_with_is_refused(data, tmp_path):
    with raises(ConfigError, "no_effect", key="judge.audit"):
        tiltlm.judge_audit(data=data, judge={"kind": "length", "audit": "a.json"}, output=tmp_path / "a.json")
    for output, code in (("a.txt", "unknown_file_format"), ("pairs.json", "output_exists")):
        (tmp_path / "pairs.json").write_text("{}")
        with raises(ConfigError, code, key="--output"):
            tiltlm.judge_audit(data=data, judge="length", output=tmp_path / output)
    single = tmp_path / "single.jsonl"
    single.write_text('{"prompt": "p", "completion": "c"}\n')
    with raises(DataError, "wrong_data_shape"):
        tiltlm.judge_audit(data=single, judge="length", output=tmp_path / "a.json")
    ties = tmp_path / "ties.jsonl"
    ties.write_text('{"prompt": "p", "chosen": "c", "rejected": "r", "preference": 0.5}\n' * 2)
    with raises(DataError, "no_labels"):
        tiltlm.judge_audit(data=ties, judge="length", output=tmp_path / "a.json")
    with raises(RunError, "budget_reached"):
        tiltlm.judge_audit(data=data, judge="length", output=tmp_path / "a.json", max_calls=10)
