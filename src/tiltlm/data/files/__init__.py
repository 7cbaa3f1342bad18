"""Find files and datasets by name, and read their rows."""
