"""`tiltlm score` against a plain per-sequence computation in float64, for every objective and layout."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import tiltlm
from tiltlm.core import ConfigError

spec = importlib.util.spec_from_file_location(
    "conformance_cases", Path(__file__).parents[1] / "conformance" / "cases.py"
)
cases = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cases)


def plain_logps(folder: str, prompt: str, response: str) -> tuple[float, int]:
    """log π(response, end | prompt) by one unpadded forward in float64, and how many tokens that is."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    context = tokenizer(prompt).input_ids
    whole = [*tokenizer(prompt + response).input_ids, tokenizer.eos_token_id]
    assert whole[: len(context)] == context
    with torch.no_grad():
        logps = model(torch.tensor([whole])).logits[0].log_softmax(-1)
    targets = torch.tensor(whole[len(context) :])
    rows = torch.arange(len(context) - 1, len(whole) - 1)
    return float(logps[rows, targets].sum()), len(targets)


@pytest.fixture(scope="module")
def answers(model, trained, data):
    """What a formula needs of each chosen and rejected response, worked out the plain way."""
    found = []
    for line in data.read_text().splitlines()[:8]:
        row = json.loads(line)
        pair = []
        for side in ("chosen", "rejected"):
            s, tokens = plain_logps(str(trained.path / "model"), row["prompt"], row[side])
            s0, _ = plain_logps(model, row["prompt"], row[side])
            pair.append(cases.Answer(s, s0, tokens))
        found.append(pair)
    return found


@pytest.fixture(scope="module")
def few(data, tmp_path_factory):
    file = tmp_path_factory.mktemp("few") / "few.jsonl"
    file.write_text("".join(line + "\n" for line in data.read_text().splitlines()[:8]))
    return file


@pytest.mark.parametrize("layout", ["shared", "packed", "padded"])
@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.id)
def test_score_is_the_papers_formula_on_plain_forwards(case, layout, few, trained, model, answers, tmp_path):
    lines = tmp_path / "rows.jsonl"
    reference = {"reference": model} if case.name in ("dpo", "ipo", "kto") else {}
    result = tiltlm.score(
        model={"path": str(trained.path / "model"), "layout": layout},
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
            assert response["logps"] == pytest.approx(answer.S, rel=1e-5)
            assert response["num_tokens"] == answer.T
            if reference:
                assert response["ref_logps"] == pytest.approx(answer.S0, rel=1e-5)
    if case.pair:
        losses = [case.pair(w, r, 1.0, 0.0) for w, r in answers]
        assert result["loss"] == pytest.approx(np.mean(losses), rel=1e-5, abs=1e-5)
        assert [row["loss"] for row in rows] == pytest.approx(losses, rel=1e-5, abs=1e-5)
    elif case.single:
        z0 = result["metrics"]["kl"]
        losses = [case.single(a, good, z0) for pair in answers for a, good in zip(pair, (True, False), strict=True)]
        assert result["loss"] == pytest.approx(np.mean(losses), rel=1e-5, abs=1e-5)
    else:
        total, tokens = sum(-w.S for w, _ in answers), sum(w.T for w, _ in answers)
        assert result["loss"] == pytest.approx(total / tokens, rel=1e-5)


def test_a_policy_against_itself_has_margin_zero(few, model):
    result = tiltlm.score(model=model, data=few, objective="dpo", reference=model)
    assert result["loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert abs(result["metrics"]["rewards/margins"]) < 1e-6
    assert result["metrics"]["rewards/accuracies"] == pytest.approx(0.5, abs=0.51)


def test_a_reference_must_be_named(few, model):
    with pytest.raises(ConfigError, match="none is named"):
        tiltlm.score(model=model, data=few, objective="dpo")


def test_a_reference_without_use_is_refused(few, model):
    with pytest.raises(ConfigError, match="reference"):
        tiltlm.score(model=model, data=few, objective="simpo", reference=model)


def test_a_folder_for_the_rows_must_exist(few, model, tmp_path):
    with pytest.raises(ConfigError, match="no folder"):
        tiltlm.score(model=model, data=few, objective="sft", per_example=tmp_path / "nowhere" / "rows.jsonl")
