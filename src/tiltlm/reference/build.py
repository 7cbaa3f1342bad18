"""From what a user says about the reference to a `Reference`: which weights, where kept, or a reason why not."""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiltlm.core.errors import ConfigError, ModelError
from tiltlm.models import ModelSettings, Policy, load_policy
from tiltlm.models.folders import locate
from tiltlm.reference.digests import numeric_path
from tiltlm.reference.model import ModelReference
from tiltlm.reference.moving import MovingReference
from tiltlm.reference.reference import ColumnReference, Reference, no_distributions
from tiltlm.reference.store.store import ReferenceStore, default_store_folder
from tiltlm.reference.weights import base_weights, initial_weights, other_weights

NAMES = ("auto", "initial", "base", "moving", "none", "columns")

STORE_LIMIT = 20.0
"""Default of `store_limit`: some fifty million sequences of ordinary length."""

LARGER = 4
"""Packs of the reference are so many times larger than training's: they keep nothing for a backward pass."""


@dataclass(frozen=True)
class ReferenceSettings:
    """Which policy the objective compares with, and where its log-probabilities are kept."""

    name: str = "auto"
    """`auto`: `initial` where the objective needs a reference. `initial`: the policy as loaded, adapter included.
    `base`: without its adapters. `moving`: starts as `initial` and follows the policy. `columns`: sums that the data
    brings along. `none`. Anything else: a model folder, or a name on the Hugging Face hub."""
    rate: float | None = None
    """Of `moving`: how far an update goes, θ_ref ← rate·θ + (1 − rate)·θ_ref; 1 replaces the reference."""
    period: int | None = None
    """Of `moving`: optimiser steps from one update to the next."""
    revision: str | None = None
    """Branch, tag or commit of a name on the hub."""
    store: str | None = None
    """Folder that keeps log-probabilities for all runs; None: $TILTLM_STORE, or the user's cache folder."""
    store_limit: float | None = STORE_LIMIT
    """Gigabytes (10⁹ bytes) of that folder. Beyond, what was not used for longest is removed, but never what this run
    uses; null: no limit."""
    cache: bool = True
    """False: nothing is kept; one forward through the reference at every step, from a copy where the weights train."""

    def __post_init__(self) -> None:
        if self.revision is not None and self.name in NAMES:
            raise ConfigError(
                f"reference.revision has no effect with reference.name={self.name}; remove it",
                code="no_effect",
                key="reference.revision",
            )
        self._check_moving()
        for key in self.set_for_store:
            if not (self.cache and self.is_storable):
                reason = "reference.cache is false" if self.is_storable else f"reference.name is {self.name!r}"
                raise ConfigError(
                    f"reference.{key} is set and has no effect, because {reason}; remove one of them",
                    code="no_effect",
                    key=f"reference.{key}",
                )
        if self.store_limit is not None and not self.store_limit > 0:
            raise ConfigError(
                f"reference.store_limit is {self.store_limit}; it is gigabytes, above 0 (null: no limit)",
                code="not_positive",
                key="reference.store_limit",
            )
        if not self.cache and not self.is_storable:
            raise ConfigError(
                f"reference.cache=false has no effect with reference.name={self.name}; remove it",
                code="no_effect",
                key="reference.cache",
            )

    @property
    def is_storable(self) -> bool:
        """True where something could be computed that stays true."""
        return self.name not in ("none", "columns", "moving")

    @property
    def set_for_store(self) -> list[str]:
        """Which settings say something about the folder."""
        is_set = {"store": self.store is not None, "store_limit": self.store_limit != STORE_LIMIT}
        return [key for key, yes in is_set.items() if yes]

    def _check_moving(self) -> None:
        """Raise where `rate` and `period` are missing, impossible, or would have no effect."""
        for key, value in (("rate", self.rate), ("period", self.period)):
            if self.name == "moving" and value is None:
                raise ConfigError(
                    f"reference.name is 'moving' and reference.{key} is missing; it has no default. The authors of "
                    "TR-DPO use rate 0.6 with period 512 where they move softly",
                    code="missing_setting",
                    key=f"reference.{key}",
                )
            if self.name != "moving" and value is not None:
                raise ConfigError(
                    f"reference.{key} has no effect with reference.name={self.name}; remove it, or name 'moving'",
                    code="no_effect",
                    key=f"reference.{key}",
                )
        if self.rate is not None and not 0 < self.rate <= 1:
            raise ConfigError(
                f"reference.rate is {self.rate}; it is a share above 0 and up to 1 (1: a hard update)",
                code="out_of_range",
                key="reference.rate",
            )
        if self.period is not None and self.period < 1:
            raise ConfigError(
                f"reference.period is {self.period}; it counts optimiser steps, at least 1",
                code="not_positive",
                key="reference.period",
            )


def build_reference(
    settings: ReferenceSettings, policy: Policy, *, is_needed: bool, max_tokens: int, live: bool = False
) -> Reference:
    """The reference of a run. Call it before anything trains, and before a checkpoint's weights are put in.

    Args:
        settings: Its name, and where it keeps what it computes.
        policy: As loaded: what `initial` means.
        is_needed: Whether the objective compares with a reference (`objective.needs_reference`).
        max_tokens: Token budget of a pack in training.
        live: Whether whole distributions are read too (`objective.extras`). Those are not stored: the reference runs at
            every step, from a copy where the weights train, and gives its log-probabilities by the way.

    Raises:
        ConfigError: the objective needs a reference and has none, or has one and no use for it.
        ModelError: another model's folder cannot serve, or its tokens are others.
    """
    name = settings.name
    if not is_needed:
        return no_reference(settings)
    if name == "none":
        raise ConfigError(
            "this objective compares with a reference and reference.name is 'none'; name 'initial'",
            code="needs_reference",
            key="reference.name",
        )
    if name == "columns":
        if live:
            raise no_distributions(name)
        return ColumnReference()
    if name == "moving":
        assert settings.rate is not None, "checked by the settings"
        assert settings.period is not None, "checked by the settings"
        return MovingReference(policy.module, settings.rate, settings.period, LARGER * max_tokens)
    if live and settings.set_for_store:
        raise ConfigError(
            f"reference.{settings.set_for_store[0]} is set and has no effect: this objective reads the reference's"
            " whole distributions, which are computed at every step and not stored; remove it",
            code="no_effect",
            key=f"reference.{settings.set_for_store[0]}",
        )
    is_stored = settings.cache and not live
    module, keep_copy = policy.module, not is_stored
    if name in ("auto", "initial"):
        name, weights = "initial", initial_weights(module, keep_copy)
    elif name == "base":
        weights = base_weights(module, keep_copy)
    else:
        weights = other_weights(_load(settings, policy).module)
    store = None
    if is_stored:
        folder = Path(settings.store).expanduser() if settings.store else default_store_folder()
        limit = None if settings.store_limit is None else round(settings.store_limit * 1e9)
        store = ReferenceStore(folder, weights.digest, numeric_path(weights.policy), limit)
    return ModelReference(name, weights, store, LARGER * max_tokens)


def no_reference(settings: ReferenceSettings) -> Reference:
    """The reference of an objective that needs none.

    Raises:
        ConfigError: one is named all the same.
    """
    if settings.name not in ("auto", "none"):
        raise ConfigError(
            f"reference.name is {settings.name!r} and this objective uses no reference; remove reference.name",
            code="no_effect",
            key="reference.name",
        )
    return Reference()


def _load(named: ReferenceSettings, policy: Policy) -> Policy:
    """Another model, on the policy's numeric path."""
    path = named.name
    if not Path(path).exists() and (close := difflib.get_close_matches(path, NAMES, n=1)):
        raise ConfigError(
            f"reference.name: no reference {path!r}; did you mean {close[0]!r}? Known: {', '.join(NAMES)}, or a folder",
            code="unknown_name",
            key="reference.name",
        )
    if named.revision is not None and locate(path).is_folder:
        raise ConfigError(
            f"reference.revision={named.revision} has no effect: reference.name={path} is a folder; remove it",
            code="no_effect",
            key="reference.revision",
        )
    settings = ModelSettings(
        path,
        named.revision,
        dtype=policy.settings.dtype,
        precision=policy.module.precision,
        layout=policy.settings.layout,
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
            " reference must read the policy's token ids. Name a model with the same tokenizer.",
            code="other_tokenizer",
            key="reference.name",
        )
