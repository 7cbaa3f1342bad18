"""Revisions of the policy's own samples by the principles of a constitution, on a chat model with random weights."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tiltlm
import tiltlm.recipes.online.loop
from support.chat_models import write_chat_model
from support.errors import raises
from tiltlm.core import ConfigError
from tiltlm.online.constitution import DEFAULT, read_constitution
from tiltlm.sampling.answers import read_answers


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory) -> str:
    return write_chat_model(tmp_path_factory.mktemp("models") / "chat")


@pytest.fixture
def given(chat_model: str, tmp_path: Path, own_cache) -> dict[str, Any]:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Where is the key, number {k}?"}) + "\n" for k in range(4)))
    return {
        "preset": "constitutional",
        "model": chat_model,
        "data": str(prompts),
        "progress": False,
        "max_new_tokens": 10,
        "batch_size": 2,
        "loop.rounds": 1,
        "learning_rate": 1e-3,
    }


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_revision_is_the_chosen_answer_to_the_prompt_itself(given, tmp_path):
    run = tiltlm.loop(output=tmp_path / "run", **given)
    folder = run.path / "rounds" / "0000"
    drafts = read_answers(folder / "samples.jsonl.gz")
    critiques = {row.id: row for row in read_answers(folder / "critiques-0.jsonl.gz")}
    revisions = {row.id: row for row in read_answers(folder / "revisions-0.jsonl.gz")}
    principles = read_constitution(DEFAULT)
    for row in drafts:
        asked, again = critiques[row.id].prompt, revisions[row.id].prompt
        assert [turn["role"] for turn in again] == ["user", "assistant", "user", "assistant", "user"]
        assert asked[:2] == again[:2]
        assert (asked[0]["content"], asked[1]["content"]) == (row.prompt, row.answers[0])
        (principle,) = [one for one in principles if one.asks_critique == asked[2]["content"]]
        assert (again[3]["content"], again[4]["content"]) == (
            critiques[row.id].answers[0].strip(), principle.asks_revision,
        )  # fmt: skip
    (card,) = run.cards
    examples = rows_of(folder / "examples.jsonl")
    assert card.num_examples == len(examples) > 0
    assert all(row["comparisons"] == [[1, 0, 1.0, 0.0]] for row in examples), "the second sample is the revision"


def test_a_judge_says_how_likely_the_revision_is_better(given, tmp_path):
    changed = {**given, "examples.rule": "pair", "judge": "length", "unaudited": True}
    run = tiltlm.loop(output=tmp_path / "run", **changed)
    folder = run.path / "rounds" / "0000"
    assert all(len(row["scores"]) == 2 for row in rows_of(folder / "verdicts.jsonl"))
    assert all(0.5 < row["comparisons"][0][2] <= 1 for row in rows_of(folder / "examples.jsonl"))


def test_a_draft_whose_critique_does_not_fit_has_no_revision(given, tmp_path, monkeypatch):
    """No request fits: nothing is revised, and nothing is trained on."""
    reviser_of = tiltlm.recipes.online.loop.reviser_of
    monkeypatch.setattr("tiltlm.recipes.online.loop.reviser_of", lambda *parts: replace(reviser_of(*parts), window=1))
    run = tiltlm.loop(output=tmp_path / "run", **given)
    assert run.cards[0].dropped == {"missing_sample": 4}
    assert not list((run.path / "rounds" / "0000").glob("revisions-*"))


def test_supervised_training_on_revisions(given, tmp_path):
    run = tiltlm.loop(output=tmp_path / "run", **{**given, "objective": {"name": "sft"}})
    assert run.cards[0].num_steps > 0


@pytest.mark.parametrize(
    ("change", "code", "key"),
    [
        ({"judge": "length", "unaudited": True}, "no_effect", "judge"),
        ({"loop.n": 2}, "too_many_samples", "loop.n"),
        ({"rivals.revisions": 0}, "too_few_samples", "loop.n"),
        ({"rivals.constitution": "none.yaml"}, "no_such_path", "rivals.constitution"),
        ({"rivals.n": 1}, "conflict", "rivals.n"),
    ],
)
def test_what_cannot_work_is_refused(given, tmp_path, change, code, key):
    with raises(ConfigError, code, key=key):
        tiltlm.loop(output=tmp_path / "run", **{**given, **change})
    assert not (tmp_path / "run").exists()
