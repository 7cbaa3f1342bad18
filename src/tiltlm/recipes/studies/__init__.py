"""Recipes of several runs: the reward–KL frontier, methods compared at one budget."""
