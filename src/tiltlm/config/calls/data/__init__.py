"""The calls about data. What is heavy is imported inside the functions."""
