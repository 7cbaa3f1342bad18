"""The store of reference log-probabilities."""
