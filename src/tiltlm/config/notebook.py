"""Parts of tiltlm for notebooks: models, data and objectives from plain values, in one call each."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tiltlm.config.in_memory import plain
from tiltlm.config.schema import Schema
from tiltlm.data import PreferenceData
from tiltlm.models import Policy
from tiltlm.objectives import CATALOG, Objective, compose
from tiltlm.recipes import catalogue
from tiltlm.recipes.prepare import encoder_of, load_for
from tiltlm.recipes.run_settings import RunSettings


def load_policy(model: str | Path, **settings: Any) -> Policy:
    """Load a language model with its tokenizer.

    Args:
        model: A folder, or a name on the Hugging Face Hub.
        **settings: Keys of the section `model` (`tiltlm.models.ModelSettings`), such as `dtype="float64"`.

    Raises:
        ModelError: The model cannot be used; the message says what to change.
    """
    from tiltlm import models

    return models.load_policy(Schema(RunSettings).make("model", {"path": str(model), **settings}, {}))


def load_data(data: Any, policy: Policy, objective: str = "dpo", **settings: Any) -> PreferenceData:
    """Load preference data as the examples that training would use.

    Args:
        data: A file, a folder, a name on the Hugging Face Hub, or several of them; or rows: a list of mappings, a
            pandas frame, a `datasets.Dataset`.
        policy: The policy whose tokenizer is used.
        objective: The method that the data is for; it decides which columns are needed.
        **settings: Keys of the section `data` (`tiltlm.data.DataSettings`), such as `eval_fraction=0.1`.

    Returns:
        The examples in `train` and `held_out`, and in `accounting` what became of every row.

    Raises:
        DataError: The data cannot be used; the message names the row and what to change.
    """
    section = Schema(RunSettings).make("data", plain({"train": data, **settings}, "data"), {})
    return load_for(build_objective(objective), section, encoder_of(policy))


def build_objective(objective: str | Mapping[str, Any], **settings: Any) -> Objective:
    """Build an objective.

    Args:
        objective: Name of a method (`dpo`, `trl:hinge`), or parts or a weighted sum as in a configuration.
        **settings: Settings of the method, such as `beta=0.2`.

    Raises:
        ConfigError: The method or a setting is unknown, missing or out of range.
    """
    return compose({**({"name": objective} if isinstance(objective, str) else objective), **settings})


def list_objectives() -> list[str]:
    """Return the names of all methods."""
    return list(CATALOG)


def describe_objective(name: str | None = None) -> str:
    """Return the description of a method as text: formula, source, data, settings, what is logged, what can fail.

    Args:
        name: Name of the method, here or in another library (`trl:hinge`). None: one line for each method.
    """
    return catalogue.overview() if name is None else catalogue.describe_method(name)
