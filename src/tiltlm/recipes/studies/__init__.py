"""Recipes about a model as a whole: what choosing among its answers wins."""
