"""Responses from a policy: n samples of a prompt from one prefill, as token ids that are never tokenised again."""

from tiltlm.sampling.drawing import SamplingSettings
from tiltlm.sampling.sampler import Sampled, sample

__all__ = ["Sampled", "SamplingSettings", "sample"]
