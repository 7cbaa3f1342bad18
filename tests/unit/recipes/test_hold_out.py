"""What a run holds out without being told."""

import json

import pytest

from support.errors import raises
from support.tokenizers_and_templates import byte_level, pair
from tiltlm.core import DataError
from tiltlm.data import DataSettings, Encoder
from tiltlm.objectives import build
from tiltlm.recipes.prepare import EVAL_FRACTION, load_for


@pytest.fixture
def load(tmp_path):
    """Return a function that loads made-up pairs as a run does."""
    tokenizer = byte_level(bos=True)

    def run(num_rows, objective="dpo", **settings):
        file = tmp_path / "data.jsonl"
        file.write_text("".join(json.dumps(pair(i)) + "\n" for i in range(num_rows)))
        encoder = Encoder(tokenizer, tokenizer.eos_token_id, None)
        return load_for(build(objective), DataSettings(train=str(file), **settings), encoder)

    return run


def test_a_tenth_of_the_prompts_by_default(load):
    data, named = load(200), load(200, eval_fraction=EVAL_FRACTION)
    assert 10 < len(data.held_out) < 35
    assert data.fingerprint == named.fingerprint
    assert len(data.train) + len(data.held_out) == 200
    assert data.notes[-1].code == "held_out"
    assert str(len(data.held_out)) in data.notes[-1]
    assert data.notes[:-1] == named.notes


def test_zero_holds_out_nothing(load):
    data = load(40, eval_fraction=0.0)
    assert (len(data.train), len(data.held_out)) == (40, 0)


@pytest.mark.parametrize("objective", ["dpo", "kto"])
@pytest.mark.parametrize("num_rows", [2, 3, 5, 8, 12, 20])
def test_few_prompts_are_trained_on_and_not_refused(load, objective, num_rows):
    """Of few prompts a tenth may be none, all of them, or one, which KTO's baseline cannot use."""
    data = load(num_rows, objective)
    assert len(data.train) + len(data.held_out) == num_rows
    assert data.notes[-1].code == ("held_out" if data.held_out else "nothing_held_out")


def test_no_rows_are_still_refused(load):
    with raises(DataError, "no_rows_left"):
        load(10, max_length=4, truncation="drop")
