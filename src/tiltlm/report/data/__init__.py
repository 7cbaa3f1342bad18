"""Pages about data: what a check found."""
