"""Rows: a line of a file becomes a record."""
