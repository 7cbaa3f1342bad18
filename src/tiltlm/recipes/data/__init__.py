"""Recipes about data alone: no model is loaded."""
