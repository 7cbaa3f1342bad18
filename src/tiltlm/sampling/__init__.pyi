from .drawing import SamplingSettings
from .sampler import Sampled, sample

__all__ = ["Sampled", "SamplingSettings", "sample"]
