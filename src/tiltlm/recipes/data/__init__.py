"""Recipes about data, before any training: votes, statistics."""
