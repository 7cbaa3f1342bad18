"""The calls about data: a module each."""
