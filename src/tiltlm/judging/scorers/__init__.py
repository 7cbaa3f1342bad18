"""Scorers: verifiers and rules, reward models, implicit rewards, and scores that need no model."""
