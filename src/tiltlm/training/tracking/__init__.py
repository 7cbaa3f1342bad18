"""Trackers: the records of a run as live curves in TensorBoard, trackio or Weights & Biases."""

from tiltlm.training.tracking.trackers import Trackers, open_trackers

__all__ = ["Trackers", "open_trackers"]
