"""Tokenised data on disk, and sequences that are read from it."""
