"""The implicit reward is β times the difference of two log-probabilities, computed here with plain transformers."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from support.errors import raises
from tiltlm.core import ConfigError
from tiltlm.judging import Item, build_judge
from tiltlm.worlds import TextWorld

PATH = str(TextWorld().model_path())
PROMPT = "Guest Ada: Where is my red hat?\nDesk:"
ITEMS = [Item(PROMPT, " Hello Ada, your red hat is in the hall. Glad to help!"), Item(PROMPT, " Look stranger.")]


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A model of the same tokenizer with other weights."""
    folder = tmp_path_factory.mktemp("other")
    model = AutoModelForCausalLM.from_pretrained(PATH)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(PATH).save_pretrained(folder)
    return str(folder)


def logp(path, item, *, ended=True):
    """Return log π(y|x) and the number of tokens of y."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path).double().eval(), AutoTokenizer.from_pretrained(path)
    prompt = tokenizer(item.prompt).input_ids
    ids = [*tokenizer(item.prompt + item.response).input_ids, *([tokenizer.eos_token_id] if ended else [])]
    with torch.no_grad():
        logps = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(logps[t - 1, ids[t]].item() for t in range(len(prompt), len(ids))), len(ids) - len(prompt)


@pytest.mark.parametrize("mean", [False, True])
def test_the_value_is_beta_times_the_log_ratio(other, mean):
    judge = build_judge({"kind": "implicit", "model": other, "reference": PATH, "beta": 0.3, "mean": mean})
    for item, score in zip(ITEMS, judge.score(ITEMS), strict=True):
        (policy, num), (reference, _) = logp(other, item), logp(PATH, item)
        assert score.value == pytest.approx(0.3 * (policy - reference) / (num if mean else 1), abs=1e-4)


def test_a_cut_response_has_no_end_token(other):
    judge = build_judge(f"implicit:{other}@{PATH}")
    item = Item(PROMPT, " Hello Ada, your red", ended=False)
    (score,) = judge.score([item])
    assert score.value == pytest.approx(logp(other, item, ended=False)[0] - logp(PATH, item, ended=False)[0], abs=1e-4)


def test_a_policy_is_its_own_reference():
    scores = list(build_judge(f"implicit:{PATH}@{PATH}").score(ITEMS))
    assert [score.value for score in scores] == [0.0, 0.0]


def test_the_digest_names_both_models_and_the_settings(other):
    given = [(other, PATH, 1.0), (PATH, other, 1.0), (other, PATH, 0.5)]
    digests = {build_judge({"kind": "implicit", "model": m, "reference": r, "beta": b}).digest for m, r, b in given}
    assert len(digests) == 3


def test_the_reference_is_a_model():
    with raises(ConfigError, "unknown_name", key="judge.reference"):
        build_judge(f"implicit:{PATH}@initial")
