"""Recipes that draw fresh samples between the steps of training."""
