"""Cache tokenised data on disk, and read it as sequences of examples."""
