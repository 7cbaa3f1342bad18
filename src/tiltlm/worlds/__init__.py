"""Small worlds with a known truth."""

from tiltlm.worlds.text import LEVELS, TextWorld

__all__ = ["LEVELS", "TextWorld"]
