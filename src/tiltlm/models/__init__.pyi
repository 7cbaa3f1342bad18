from .loading import Loaded, Policy, Scorer, load_policy, load_scorer
from .model_settings import LoraSettings, ModelSettings
from .saving import save_policy
from .tokenizers import limit_of_ids, load_tokenizer

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
