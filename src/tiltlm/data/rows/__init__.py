"""Turn rows of files into records."""
