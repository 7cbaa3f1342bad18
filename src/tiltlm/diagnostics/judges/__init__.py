"""Numbers about a judge: agreement with labels, biases, calibration."""
