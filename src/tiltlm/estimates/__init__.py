"""Estimates with their uncertainty: intervals from independent units. Numbers only; no package above it is needed."""
