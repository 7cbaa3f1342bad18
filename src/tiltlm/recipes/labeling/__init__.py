"""Recipes of the labelling app: pairs in, people, serving, labels out."""
