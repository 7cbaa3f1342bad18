"""Recipes about data, before any training: checks, conversions, votes, statistics, splits."""
