"""Divide a data set by prompt into parts for training, validation and test."""
