"""Fixtures: encoders with tiny tokenizers, and data files."""

import json
from pathlib import Path

import pytest

from support.tokenizers_and_templates import FAMILIES, byte_level
from tiltlm.data.tokens.encoder import Encoder


@pytest.fixture(scope="session", params=FAMILIES)
def any_encoder(request: pytest.FixtureRequest) -> Encoder:
    """Return an encoder of each family."""
    tokenizer = FAMILIES[request.param]()
    return Encoder(tokenizer, tokenizer.eos_token_id)


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    """Return a byte-level encoder with a beginning token. Plain English words are few tokens."""
    tokenizer = byte_level(bos=True)
    return Encoder(tokenizer, tokenizer.eos_token_id)


@pytest.fixture
def jsonl(tmp_path: Path):
    """Return a function that writes rows (or raw lines) to a file and returns its path."""

    def write(rows: list[object], name: str = "data.jsonl") -> str:
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return str(path)

    return write
