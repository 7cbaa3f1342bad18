"""What a run measures of its policy before and after training."""
