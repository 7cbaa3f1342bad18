"""Loading, saving and settings of models."""

from tiltlm.models.loading import Loaded, Policy, Scorer, limit_of_ids, load_policy, load_scorer, load_tokenizer
from tiltlm.models.model_settings import LoraSettings, ModelSettings
from tiltlm.models.saving import save_policy

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
