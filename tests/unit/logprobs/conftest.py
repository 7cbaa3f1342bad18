"""Tiny random models."""

from support.model_fixtures import close, gradients, make_classifier, make_model, trees, weights, write_tokenizer

__all__ = ["close", "gradients", "make_classifier", "make_model", "trees", "weights", "write_tokenizer"]
