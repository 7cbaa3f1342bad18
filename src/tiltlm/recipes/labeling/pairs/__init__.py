"""Pairs to label: read from sources, cleaned, ordered, and those with a known answer."""
