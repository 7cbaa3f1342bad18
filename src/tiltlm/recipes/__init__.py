"""The commands as plain functions of their settings: train, score, sweep, preview, quickstart, objectives."""
