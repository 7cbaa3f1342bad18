"""A judge does not judge models of its own family: models prefer what they would have written themselves."""

import re
from collections.abc import Iterable
from pathlib import PurePath

from tiltlm.core.errors import ConfigError
from tiltlm.judging.judge import Judge

FAMILIES = (
    *("smollm", "qwen", "llama", "mixtral", "mistral", "gemma", "gemini", "claude", "deepseek", "phi", "olmo", "tulu"),
    *("falcon", "granite", "command", "internlm", "gpt", "glm", "yi", "pythia", "opt", "bloom", "stories", "nemotron"),
)
"""Names of families, as they stand in names of models; the first that is found counts."""
SAME = {"mixtral": "mistral", "tulu": "llama", "gemini": "gemma"}
"""Families with one origin."""


def family_of(model: str) -> str:
    """Return the family that a model's name tells; "" if it tells none.

    Args:
        model: Path, or name on a server or on the Hugging Face Hub. Its last part with a known name counts.
    """
    for part in reversed(PurePath(model.lower()).parts):
        for name in FAMILIES:
            if re.search(rf"(?<![a-z]){name}", part):
                return SAME.get(name, name)
    return ""


def check_family(judge: Judge, systems: Iterable[tuple[str, str]], *, allow_self: bool) -> None:
    """Require that a judge is not of the family of what it judges.

    Args:
        judge: The judge. Only language models have a family.
        systems: Name and weights digest of each model whose answers it judges; "" for what is not known.
        allow_self: The user wants it.

    Raises:
        ConfigError: Weights or family are the same.
    """
    own_name, own_weights = getattr(judge, "model", ""), getattr(judge, "weights", "")
    if allow_self or not own_name:
        return
    family = family_of(own_name)
    for name, weights in systems:
        same_weights = bool(own_weights) and own_weights == weights
        if same_weights or (family and family == family_of(name)):
            what = "the same weights" if same_weights else f"of the same family ({family})"
            raise ConfigError(
                f"the judge {own_name} and the model {name} that it judges are {what}; models prefer answers like "
                "their own. Choose a judge of another family, or set judge.allow_self=true and read the numbers with "
                "care",
                code="own_family",
                key="judge.allow_self",
            )
