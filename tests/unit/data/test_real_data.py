"""Tests on real preference pairs with a real tokenizer, if the checkout has them."""

import gzip
import json
from pathlib import Path

import pytest

from tiltlm.data import DataSettings, Encoder, load_data
from tiltlm.data.rows.prompts import ASSISTANT, HUMAN

SHARED = Path(__file__).parents[4] / "shared"
PAIRS = SHARED / "data" / "hh-harmless.jsonl.gz"
MODEL = SHARED / "models" / "stories260k"

pytestmark = pytest.mark.skipif(
    not (PAIRS.exists() and MODEL.exists()), reason="needs ../shared with hh-harmless and stories260k"
)


@pytest.fixture(scope="module")
def encoder():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    return Encoder(tokenizer, tokenizer.eos_token_id, 512)


@pytest.fixture(scope="module")
def data(encoder):
    return load_data(DataSettings(train=str(PAIRS), eval_fraction=0.1), encoder, "pairs")


def test_all_1700_rows_are_accounted_for(data):
    accounting = data.accounting
    assert accounting.total == 1700 == accounting.kept_train + accounting.held_out + accounting.dropped
    counts = {cause: tally.count for cause, tally in accounting.losses.items()}
    assert counts == {"response_too_long": 37, "empty_response": 4, "no_common_prompt": 2}
    assert [x.split(":")[1] for x in accounting.losses["empty_response"].examples] == ["87", "517", "926", "1104"]
    assert [x.split(":")[1] for x in accounting.losses["no_common_prompt"].examples] == ["1255", "1689"]
    assert {cause: tally.count for cause, tally in accounting.changes.items()} == {
        "turns_cut": 448,
        "prompt_cut_left": 22,
    }
    assert 120 <= accounting.held_out <= 220


def test_prompt_and_answers_read_as_the_file_has_them(data, encoder):
    """Decoding gives the transcript without what was cut from its start, and with one beginning and one end token.

    What is left opens with a user's turn, or fills the window to the last token.
    """
    with gzip.open(PAIRS, "rt") as file:
        rows = [json.loads(line) for line in file]
    for example in (*data.train, *data.held_out)[:200]:
        row = rows[int(example.id.split(":")[1]) - 1]
        transcript = row["chosen"][: row["chosen"].rindex(ASSISTANT) + len(ASSISTANT)]
        kept = encoder.decode(example.prompt_ids).removeprefix("<s>")
        full = len(example.prompt_ids) + max(len(r.token_ids) for r in example.responses) == 512
        if not kept.startswith(f" {HUMAN}"):
            assert full
        assert transcript.endswith(kept.lstrip("\ufffd") if full else kept[1:])
        for response, column in zip(example.responses, ("chosen", "rejected"), strict=True):
            answer = encoder.response_text(example.prompt_ids, response.token_ids)
            assert answer == row[column].rpartition(ASSISTANT)[2] + "</s>"
            assert [*example.prompt_ids, *response.token_ids].count(1) == 1
            assert response.token_ids.tolist().count(2) == 1


def test_everything_fits_the_window(data):
    lengths = [len(e.prompt_ids) + len(r.token_ids) for e in (*data.train, *data.held_out) for r in e.responses]
    assert max(lengths) == 512
    assert data.max_length == 512


def test_as_labels_with_partners(encoder):
    data = load_data(DataSettings(train=str(PAIRS), eval_fraction=0.1), encoder, "unpaired", needs_partners=True)
    assert data.accounting.kept == 1657
    for example in data.train:
        assert all(len(example.prompt_ids) + len(p.token_ids) <= 512 for p in example.partners)
