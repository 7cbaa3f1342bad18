"""A policy that judges itself: with the weights of each round, and never as its own measure."""

import json
from pathlib import Path
from typing import Any

import pytest

import tiltlm
from support.chat_models import write_chat_model
from support.errors import raises
from tiltlm.core import ConfigError, RunError
from tiltlm.judging import Item
from tiltlm.judging.language.judges import GradeJudge
from tiltlm.judging.language.local import LocalModel
from tiltlm.sampling.answers import read_answers


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory) -> str:
    return write_chat_model(tmp_path_factory.mktemp("models") / "chat")


@pytest.fixture
def given(chat_model: str, tmp_path: Path, monkeypatch, own_cache) -> dict[str, Any]:
    """A model with random weights, whose labels together have a probability of 1 %: any is accepted here."""
    monkeypatch.setattr("tiltlm.judging.language.question.MIN_MASS", 0.0)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Say something kind, number {k}."}) + "\n" for k in range(6)))
    settings = {"data.as_chat": True, "loop.prompts_per_round": 3, "max_new_tokens": 12, "batch_size": 2}
    return {
        "preset": "self_rewarding",
        "model": chat_model,
        "data": str(prompts),
        "held_out_judge": "length",
        "unaudited": True,
        "progress": False,
        "learning_rate": 1e-2,
        "schedule": "constant",
        "warmup_ratio": 0.0,
        **settings,
    }


def test_each_round_is_judged_by_the_policy_of_that_round(given, tmp_path):
    run = tiltlm.loop(output=tmp_path / "run", **given, **{"loop.rounds": 2})
    first = tiltlm.loop(output=tmp_path / "first", **given, **{"loop.rounds": 1})
    assert [card.num_examples for card in run.cards] == [3, 3]
    folder = run.path / "rounds" / "0001"
    verdicts = [json.loads(line)["scores"] for line in (folder / "verdicts.jsonl").read_text().splitlines()]
    rows = read_answers(folder / "samples.jsonl.gz")
    items = [
        [Item(row.prompt, text, row.row, end) for text, end in zip(row.answers, row.ended, strict=True)] for row in rows
    ]
    trained = GradeJudge(LocalModel.load(str(first.path / "model")))
    untrained = GradeJudge(LocalModel.load(given["model"]))
    for own, expected in zip(items, verdicts, strict=True):
        assert [score.value for score in trained.score(own)] == pytest.approx(expected, rel=1e-4)
        assert [score.value for score in untrained.score(own)] != pytest.approx(expected, rel=1e-4)


def test_it_needs_a_judge_that_does_not_change(given, tmp_path):
    for change, code, key in (
        ({"held_out_judge": None}, "needs_held_out", "held_out_judge"),
        ({"unaudited": False}, "no_audit", "judge.audit"),
        ({"judge": {"kind": "reward_model", "model": "self"}}, "not_supported", "judge.model"),
        ({"judge": {"kind": "grade", "model": "self", "url": "http://127.0.0.1:9"}}, "no_effect", "judge.url"),
    ):
        with raises(ConfigError, code, key=key):
            tiltlm.loop(output=tmp_path / "run", **{**given, **change})
    assert not (tmp_path / "run").exists()


def test_judgements_that_failed_are_left_out_only_when_that_is_asked_for(given, tmp_path, monkeypatch):
    monkeypatch.setattr("tiltlm.judging.language.question.MIN_MASS", 0.5)
    with raises(RunError, "judge_errors", key="judge", mentions=["--accept-errors"]):
        tiltlm.loop(output=tmp_path / "run", **given, **{"loop.rounds": 1})
    run = tiltlm.loop(output=tmp_path / "run", **given, resume=True, accept_errors=True, **{"loop.rounds": 1})
    (card,) = run.cards
    assert (card.num_examples, card.dropped, card.statuses) == (0, {"not_judged": 3}, {"error": 12})
