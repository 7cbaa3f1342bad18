"""Pages about several runs: the frontier, methods compared."""
