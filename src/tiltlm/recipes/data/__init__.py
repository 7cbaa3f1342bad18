"""Recipes about data: what is wrong with it, and a copy without it."""
