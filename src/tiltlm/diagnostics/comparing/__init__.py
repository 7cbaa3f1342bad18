"""Numbers of a comparison of systems: win rates, length control, strength, sample sizes."""
