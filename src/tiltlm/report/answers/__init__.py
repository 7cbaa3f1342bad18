"""Pages about the answers of models: a comparison, best-of-n, an audit of a judge."""
