"""`tiltlm score` equals a plain computation per sequence in float64, for every objective and layout."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import tiltlm
from support import objective_cases as cases
from support.errors import raises
from tiltlm.core import ConfigError
from tiltlm.objectives import build

IN_EVERY_LAYOUT = {"dpo", "ipo", "simpo", "orpo", "kto", "sft", "tdpo1", "wpo", "rainbowpo"}
"""The other methods read the same outputs of the forward as these, so one layout is enough for them."""


def next_tokens(folder: str, prompt: str, response: str) -> tuple[np.ndarray, np.ndarray]:
    """Return log π(·|·) at each token of the response and its end, by one forward in float64, and the tokens."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    context = tokenizer(prompt).input_ids
    whole = [*tokenizer(prompt + response).input_ids, tokenizer.eos_token_id]
    assert whole[: len(context)] == context
    with torch.no_grad():
        logps = model(torch.tensor([whole])).logits[0].log_softmax(-1)
    return logps[len(context) - 1 : len(whole) - 1].numpy(), np.array(whole[len(context) :])


@pytest.fixture(scope="module")
def answers(model, trained, data):
    """Compute what a formula needs of each chosen and rejected response, without tiltlm."""
    found = []
    for line in data.read_text().splitlines()[:8]:
        row = json.loads(line)
        pair = []
        for side in ("chosen", "rejected"):
            own, tokens = next_tokens(str(trained.path / "model"), row["prompt"], row[side])
            ref, _ = next_tokens(model, row["prompt"], row[side])
            at = np.arange(len(tokens)), tokens
            pair.append(
                cases.Answer(
                    tokens=own[at],
                    ref_tokens=ref[at],
                    kls=(np.exp(ref) * (ref - own)).sum(1),
                    collisions=np.log(np.exp(2 * own).sum(1)),
                    entropies=-(np.exp(ref) * ref).sum(1) / np.log(ref.shape[1]),
                )
            )
        found.append(pair)
    return found


SCORES = (0.9, 0.2)
"""Score of every chosen and of every rejected response."""


@pytest.fixture(scope="module")
def few(data, tmp_path_factory):
    file = tmp_path_factory.mktemp("few") / "few.jsonl"
    rows = [json.loads(line) for line in data.read_text().splitlines()[:8]]
    scores = dict(zip(("score_chosen", "score_rejected"), SCORES, strict=True))
    file.write_text("".join(json.dumps({**row, **scores}) + "\n" for row in rows))
    return file


TOLERANCE = {"float64": 1e-6, "float32": 1e-5}
"""Relative to its size for a log-probability, and to the largest loss for a loss."""


@pytest.mark.parametrize(
    ("case", "dtype", "layout"),
    [
        pytest.param(case, dtype, layout, id=f"{case.id}-{dtype}-{layout}")
        for case in cases.CASES
        if case.name != "reward_model"  # it reads no log-probabilities: test_reward_model.py
        if case.rollouts is None  # files have none
        for dtype, layout in (("float64", "shared"), *(("float32", name) for name in ("shared", "packed", "padded")))
        if dtype == "float64" or case.name in IN_EVERY_LAYOUT
    ],
)
def test_score_is_the_papers_formula_on_plain_forwards(case, dtype, layout, few, trained, model, answers, tmp_path):
    """float64 agrees to six digits (stored references and eager softmax are float32); float32 adds rounding."""
    tolerance = TOLERANCE[dtype]
    lines = tmp_path / "rows.jsonl"
    objective = build(case.name, **case.knobs)
    reference = {"reference": model} if objective.needs_reference else {}
    result = tiltlm.score(
        model={"path": str(trained.path / "model"), "dtype": dtype, "layout": layout},
        data=few,
        objective={"name": case.name, **case.knobs},
        per_example=lines,
        **reference,
    )
    assert sorted(result) == ["loss", "metrics", "num_examples", "objective"]
    assert (result["objective"], result["num_examples"]) == (case.name, 8)
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    for row, pair in zip(rows, answers, strict=True):
        for response, answer in zip(row["responses"], pair, strict=False):
            assert response["logps"] == pytest.approx(answer.S, rel=tolerance)
            assert response["num_tokens"] == answer.T
            if reference:
                assert response["ref_logps"] == pytest.approx(answer.S0, rel=tolerance)
    losses, loss = by_hand(case, answers, result["metrics"], objective)
    assert result["loss"] == pytest.approx(loss, rel=tolerance, abs=tolerance)
    if losses is not None:
        assert [row["loss"] for row in rows] == pytest.approx(losses, abs=tolerance * max(1, *map(abs, losses)))


def by_hand(case, answers, metrics, objective):
    """Return the loss of every example (None if it has no loss of its own), and of all examples."""
    unpaired = [(a, good) for pair in answers for a, good in zip(pair, (True, False), strict=True)]
    duels = [cases.Duel(w, r, 0.0, SCORES[0] - SCORES[1]) for w, r in answers]
    if case.duels:
        return None, case.duels([(duel, 1.0) for duel in duels]) / len(duels)
    if case.bags:
        return None, case.bags([(a, good, 1.0) for a, good in unpaired]) / len(unpaired)
    if case.demonstration:
        return None, sum(-w.S for w, _ in answers) / sum(w.T for w, _ in answers)
    if case.pair:
        losses = [case.pair(duel) for duel in duels]
    elif case.ranked:
        losses = [case.ranked(pair, (1, 2), SCORES) for pair in answers]
    else:
        statistic = metrics[objective.statistic.metric]
        each = [case.single(a, good, statistic) for a, good in unpaired]
        losses = [(up + down) / 2 for up, down in zip(each[::2], each[1::2], strict=True)]
    return losses, np.mean(losses)


def test_a_policy_against_itself_has_margin_zero(few, model):
    result = tiltlm.score(model=model, data=few, objective="dpo", reference=model)
    assert result["loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert abs(result["metrics"]["rewards/margins"]) < 1e-6


def test_a_reference_must_be_named(few, model):
    with raises(ConfigError, "needs_reference", key="reference.name", mentions=["--reference"]):
        tiltlm.score(model=model, data=few, objective="dpo")


def test_a_reference_without_use_is_refused(few, model):
    with raises(ConfigError, "no_effect", key="reference.name"):
        tiltlm.score(model=model, data=few, objective="simpo", reference=model)


def test_a_folder_for_the_rows_must_exist(few, model, tmp_path):
    with raises(ConfigError, "no_such_path", key="--per-example", mentions=[str(tmp_path / "nowhere")]):
        tiltlm.score(model=model, data=few, objective="sft", per_example=tmp_path / "nowhere" / "rows.jsonl")
