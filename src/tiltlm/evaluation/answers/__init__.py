"""Answers of systems, judged: a comparison of systems, a pool of one system, files of other benchmarks."""
