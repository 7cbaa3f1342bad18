"""What `preview` says before any weights are loaded."""

import json
from pathlib import Path

import pytest
import torch

from support.errors import has_event, raises
from support.model_fixtures import make_model, write_tokenizer
from tiltlm.core import ModelError
from tiltlm.data import DataSettings
from tiltlm.models import ModelSettings
from tiltlm.recipes.preview import preview
from tiltlm.recipes.run_settings import RunSettings

__all__ = ["make_model", "write_tokenizer"]


@pytest.fixture
def settings(tmp_path, make_model, write_tokenizer):
    """A run whose model has 52 embeddings for 53 tokens: `w49` has none."""
    make_model("llama", torch.float32, vocab_size=52).save_pretrained(tmp_path / "model")
    write_tokenizer(tmp_path / "model", bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    rows = [{"prompt": f"w{i} w2", "chosen": " w3", "rejected": " w4"} for i in (48, 49)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return RunSettings(
        model=ModelSettings(str(tmp_path / "model")),
        data=DataSettings(train=str(tmp_path / "pairs.jsonl")),
        objective={"name": "dpo"},
        output=str(tmp_path / "run"),
    )


def test_a_row_with_a_token_that_has_no_embedding_is_defective_as_in_training(settings, caplog):
    caplog.set_level("INFO")
    (shown,) = preview(settings)
    assert any("w48" in piece.text for piece in shown.prompt)
    assert has_event(caplog, "too_few_embeddings")


def test_an_end_token_without_embedding_is_refused_as_in_training(settings, write_tokenizer):
    write_tokenizer(Path(settings.model.path), eos_token="w49")
    with raises(ModelError, "too_few_embeddings", key="model.path"):
        preview(settings)
