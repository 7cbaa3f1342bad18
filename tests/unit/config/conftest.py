"""Tiny random models."""

from support.model_fixtures import make_model, write_tokenizer

__all__ = ["make_model", "write_tokenizer"]
