from .loading import Loaded, Policy, Scorer, limit_of_ids, load_policy, load_scorer, load_tokenizer
from .model_settings import LoraSettings, ModelSettings
from .saving import save_policy

__all__ = [
    "Loaded",
    "LoraSettings",
    "ModelSettings",
    "Policy",
    "Scorer",
    "limit_of_ids",
    "load_policy",
    "load_scorer",
    "load_tokenizer",
    "save_policy",
]
