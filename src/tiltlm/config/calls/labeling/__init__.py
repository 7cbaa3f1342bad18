"""The calls of the labelling app, one module a command. What is heavy is imported inside the functions."""
