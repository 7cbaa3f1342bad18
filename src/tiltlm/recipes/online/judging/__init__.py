"""Judging the samples of a round, also by a judge that learns."""
