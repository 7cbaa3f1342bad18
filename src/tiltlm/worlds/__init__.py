"""Small worlds with a known truth."""

from tiltlm.worlds.text import LEVELS, Split, TextWorld

__all__ = ["LEVELS", "Split", "TextWorld"]
