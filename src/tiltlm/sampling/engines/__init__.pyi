from .engine import Batch, Engine, EngineAnswer
from .engine_settings import EngineSettings

__all__ = ["Batch", "Engine", "EngineAnswer", "EngineSettings"]
