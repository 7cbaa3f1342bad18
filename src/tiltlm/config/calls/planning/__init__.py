"""Calls that look ahead at a run."""
