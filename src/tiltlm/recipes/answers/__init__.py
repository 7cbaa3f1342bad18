"""Recipes about the answers of models: draw, judge and compare them, take the best of n."""
