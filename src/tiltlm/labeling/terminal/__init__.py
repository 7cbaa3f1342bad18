"""Labelling in a terminal: one person, over SSH, with the same database and the same rules as the web app."""
