"""The calls about data, one module a command. What is heavy is imported inside the functions."""
