"""The output head: from hidden states to log-probabilities."""
