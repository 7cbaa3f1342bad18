"""From a table of two answers and a winner, and a model with a chat template, to a trained model in one command."""

import csv
import json
from pathlib import Path

import pytest
import torch
import transformers

import tiltlm
from support.tokenizers_and_templates import CHATML, byte_level

pytestmark = pytest.mark.usefixtures("blank_figures")


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory) -> Path:
    """Return a tiny random model with a ChatML template."""
    folder = tmp_path_factory.mktemp("chat") / "model"
    tokenizer = byte_level(bos=True)
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=256, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("table") / "compare.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "answer_a", "answer_b", "winner"])
        for i in range(24):
            writer.writerow([f"what is {i}?", f"it is {i}", f"no {i}", ("A", "B", "tie")[i % 3]])
    return path


def test_a_table_of_answers_and_winners_trains_in_one_command(train, chat_model, table, tmp_path):
    run = train(tmp_path / "run", model=chat_model, data=table, objective="dpo", max_steps=1, batch_size=8)
    rows = json.loads((run.path / "data.json").read_text())
    assert (rows["total"], rows["dropped"]) == (24, 0)
    assert rows["tokens"]["prompt"]["max"] > 10  # the turns of the template
    assert (run.path / "model" / "config.json").exists()


def test_preview_of_first_rows_with_one_label(chat_model, tmp_path):
    """Rows are often sorted by label; looking at the first ones is no reason to refuse."""
    path = tmp_path / "kto.jsonl"
    path.write_text("".join(f'{{"prompt": "q{i}", "completion": "a{i}", "label": true}}\n' for i in range(4)))
    (first,) = tiltlm.preview(model=str(chat_model), data=str(path), objective="kto", rows=1)
    assert first.responses


def test_preview_shows_the_template_around_text(chat_model, table):
    (first,) = tiltlm.preview(model=str(chat_model), data=str(table), rows=1)
    assert "".join(piece.text for piece in first.prompt).startswith("<|im_start|>user\nwhat is 0?<|im_end|>")
