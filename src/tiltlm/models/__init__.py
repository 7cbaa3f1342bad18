"""Model folders: loading, saving and settings of models."""

from tiltlm.models.loading import Loaded, Policy, Scorer, load_policy, load_scorer, load_tokenizer
from tiltlm.models.saving import save_policy
from tiltlm.models.settings import LoraSettings, ModelSettings

__all__ = [
    "Loaded",
    "LoraSettings",
    "ModelSettings",
    "Policy",
    "Scorer",
    "load_policy",
    "load_scorer",
    "load_tokenizer",
    "save_policy",
]
