"""Models of which each process holds a part: loading and saving without a whole copy anywhere."""
