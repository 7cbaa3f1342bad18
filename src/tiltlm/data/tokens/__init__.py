"""Tokens: a record becomes an example."""
