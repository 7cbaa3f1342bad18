"""Pages about data: what a check found, and what is in it."""
