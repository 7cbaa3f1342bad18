"""Compare texts with each other: near duplicates within data, and overlap of training data with evaluation data."""
