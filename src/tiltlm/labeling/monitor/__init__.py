"""Numbers of a project while it runs: coverage, agreement, annotators, disputes, the verdict, when to stop."""
