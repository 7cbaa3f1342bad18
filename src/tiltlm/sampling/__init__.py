"""Sampling of responses from a policy: n samples per prompt from one prefill, as token ids."""

from tiltlm.sampling.drawing import SamplingSettings
from tiltlm.sampling.sampler import Sampled, sample

__all__ = ["Sampled", "SamplingSettings", "sample"]
