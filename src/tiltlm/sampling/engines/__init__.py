"""Engines: where answers come from. The own sampler, transformers' continuous batching, or a server."""

from tiltlm.sampling.engines.engine import Batch, Engine, EngineAnswer
from tiltlm.sampling.engines.engine_settings import EngineSettings

__all__ = ["Batch", "Engine", "EngineAnswer", "EngineSettings"]
