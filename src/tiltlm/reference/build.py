"""From what a user says about the reference to a `Reference`: which weights, where kept, or a reason why not."""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiltlm.core.errors import ConfigError, ModelError
from tiltlm.logprobs import ModelSettings, Policy, load_policy
from tiltlm.reference.digests import numeric_path
from tiltlm.reference.model import ModelReference
from tiltlm.reference.reference import ColumnReference, Reference
from tiltlm.reference.store import ReferenceStore, default_folder
from tiltlm.reference.weights import base_weights, initial_weights, other_weights

NAMES = ("auto", "initial", "base", "none", "columns")

LARGER = 4
"""Packs of the reference are so many times larger than training's: they keep nothing for a backward pass."""


@dataclass(frozen=True)
class ReferenceSettings:
    """Which policy the objective compares with, and where its log-probabilities are kept."""

    name: str = "auto"
    """`auto`: `initial` where the objective needs a reference. `initial`: the policy as loaded, adapter included.
    `base`: without its adapters. `columns`: sums that the data brings along. `none`. Anything else: a model folder."""
    store: str | None = None
    """Folder that keeps log-probabilities for all runs; None: $TILTLM_STORE, or the user's cache folder."""
    cache: bool = True
    """False: nothing is kept; one forward through the reference at every step, from a copy where the weights train."""

    def __post_init__(self) -> None:
        if self.store is not None and not (self.cache and self.has_weights):
            reason = "reference.cache is false" if self.has_weights else f"reference.name is {self.name!r}"
            raise ConfigError(f"reference.store is set and has no effect, because {reason}; remove one of them")
        if not self.cache and not self.has_weights:
            raise ConfigError(f"reference.cache=false has no effect with reference.name={self.name}; remove it")

    @property
    def has_weights(self) -> bool:
        """True where something could be computed."""
        return self.name not in ("none", "columns")


def build_reference(settings: ReferenceSettings, policy: Policy, *, is_needed: bool, max_tokens: int) -> Reference:
    """The reference of a run. Call it before anything trains, and before a checkpoint's weights are put in.

    Args:
        settings: Its name, and where it keeps what it computes.
        policy: As loaded: what `initial` means.
        is_needed: Whether the objective compares with a reference (`objective.needs_reference`).
        max_tokens: Token budget of a pack in training.

    Raises:
        ConfigError: the objective needs a reference and has none, or has one and no use for it.
        ModelError: another model's folder cannot serve, or its tokens are others.
    """
    name = settings.name
    if not is_needed and name not in ("auto", "none"):
        raise ConfigError(f"reference.name is {name!r} and this objective uses no reference; remove reference.name")
    if is_needed and name == "none":
        raise ConfigError("this objective compares with a reference and reference.name is 'none'; name 'initial'")
    if not is_needed:
        return Reference()
    if name == "columns":
        return ColumnReference()
    module, keep_copy = policy.module, not settings.cache
    if name in ("auto", "initial"):
        name, weights = "initial", initial_weights(module, keep_copy)
    elif name == "base":
        weights = base_weights(module, keep_copy)
    else:
        weights = other_weights(_load(name, policy).module)
    store = None
    if settings.cache:
        folder = Path(settings.store).expanduser() if settings.store else default_folder()
        store = ReferenceStore(folder, weights.digest, numeric_path(weights.policy))
    return ModelReference(name, weights, store, LARGER * max_tokens)


def _load(path: str, policy: Policy) -> Policy:
    """Another model, on the policy's numeric path."""
    if not Path(path).exists() and (close := difflib.get_close_matches(path, NAMES, n=1)):
        raise ConfigError(
            f"reference.name: no reference {path!r}; did you mean {close[0]!r}? Known: {', '.join(NAMES)}, or a folder"
        )
    settings = ModelSettings(
        path, dtype=policy.settings.dtype, precision=policy.module.precision, layout=policy.settings.layout
    )
    reference = load_policy(settings, policy.module.device)
    _refuse_other_tokens(path, reference.tokenizer, policy.tokenizer)
    return reference


def _refuse_other_tokens(path: str, tokenizer: Any, policy_tokenizer: Any) -> None:
    known = tokenizer.get_vocab()
    strange = [token for token, i in policy_tokenizer.get_vocab().items() if known.get(token) != i]
    if strange:
        raise ModelError(
            f"reference.name: {len(strange)} of the policy's tokens, such as {strange[0]!r}, are others in {path}; a"
            " reference must read the policy's token ids. Name a model with the same tokenizer."
        )
