"""Checkpoints: their files, and what goes into them."""
