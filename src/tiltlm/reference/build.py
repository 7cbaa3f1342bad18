"""Build the reference of a run from its settings, or explain in an error why that is not possible."""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiltlm.core.checks import positive
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
"""Default of `store_limit`, in gigabytes: about fifty million sequences of ordinary length."""

LARGER = 4
"""Token budget of a reference pack, in units of training's: a reference forward keeps no activations for a backward."""


@dataclass(frozen=True)
class ReferenceSettings:
    """The policy that the objective compares with, and the folder that stores its log-probabilities."""

    name: str = "auto"
    """`auto`: `initial` if the objective needs a reference, else `none`. `initial`: the policy as loaded, adapter
    included. `base`: the policy without its adapters. `moving`: starts as `initial` and follows the policy. `columns`:
    sums from columns of the data. `none`: no reference. Anything else: a model folder, or a name on the Hugging Face
    hub."""
    rate: float | None = None
    """For `moving`: the size of an update, θ_ref ← rate·θ + (1 − rate)·θ_ref; 1 replaces the reference."""
    period: int | None = None
    """For `moving`: optimiser steps between two updates."""
    revision: str | None = None
    """Branch, tag or commit of a model on the hub."""
    store: str | None = None
    """Folder that stores log-probabilities for all runs; null: $TILTLM_STORE, or the user's cache folder."""
    store_limit: float | None = STORE_LIMIT
    """Largest size of that folder, in gigabytes (10⁹ bytes); null: no limit. Above it, the least recently used files
    are removed, but never those that this run uses."""
    cache: bool = True
    """If false, nothing is stored: the reference runs at every step, on a copy of the weights if they are trained."""

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
                    f"reference.{key} is set and has no effect, because {reason}; remove one of the two settings",
                    code="no_effect",
                    key=f"reference.{key}",
                )
        if self.store_limit is not None:
            positive(**{"reference.store_limit": self.store_limit})
        if not self.cache and not self.is_storable:
            raise ConfigError(
                f"reference.cache=false has no effect with reference.name={self.name}; remove it",
                code="no_effect",
                key="reference.cache",
            )

    @property
    def is_auto(self) -> bool:
        """True if no reference is named."""
        return self.name == "auto"

    @property
    def reads_columns(self) -> bool:
        """True if the data brings the reference's log-probabilities."""
        return self.name == "columns"

    @property
    def moves(self) -> bool:
        """True if the reference follows the policy during training."""
        return self.name == "moving"

    @property
    def is_storable(self) -> bool:
        """True if a log-probability that was computed once stays valid."""
        return not (self.moves or self.reads_columns or self.name == "none")

    @property
    def set_for_store(self) -> list[str]:
        """The settings of the store that differ from their defaults."""
        is_set = {"store": self.store is not None, "store_limit": self.store_limit != STORE_LIMIT}
        return [key for key, yes in is_set.items() if yes]

    def _check_moving(self) -> None:
        """Raise if `rate` or `period` is missing, out of range, or has no effect."""
        for key, value in (("rate", self.rate), ("period", self.period)):
            if self.moves and value is None:
                raise ConfigError(
                    f"reference.name is 'moving' and reference.{key} is missing; it has no default. The authors of "
                    "TR-DPO use rate 0.6 with period 512 for soft updates",
                    code="missing_setting",
                    key=f"reference.{key}",
                )
            if not self.moves and value is not None:
                raise ConfigError(
                    f"reference.{key} has no effect with reference.name={self.name}; remove it, or set reference.name"
                    " to 'moving'",
                    code="no_effect",
                    key=f"reference.{key}",
                )
        if self.rate is not None and not 0 < self.rate <= 1:
            raise ConfigError(
                f"reference.rate is {self.rate}; it must be above 0 and at most 1 (1 is a hard update)",
                code="out_of_range",
                key="reference.rate",
            )
        if self.period is not None and self.period < 1:
            raise ConfigError(
                f"reference.period is {self.period}; it counts optimiser steps and must be at least 1",
                code="not_positive",
                key="reference.period",
            )


def build_reference(
    settings: ReferenceSettings, policy: Policy, *, is_needed: bool, max_tokens: int, live: bool = False
) -> Reference:
    """Build the reference of a run, before anything trains and before a checkpoint's weights are loaded.

    Args:
        settings: Its name, and where its log-probabilities are stored.
        policy: The policy as loaded, which is what `initial` means.
        is_needed: True if the objective compares with a reference (`objective.needs_reference`).
        max_tokens: Token budget of a pack in training.
        live: True if the objective also reads whole distributions (`objective.extras`). They are not stored: the
            reference runs at every step, on a copy of the weights if they are trained, and the same forward gives its
            log-probabilities.

    Raises:
        ConfigError: the objective needs a reference and none is named, or one is named and not needed.
        ModelError: the folder of another model cannot be used, or its tokenizer differs.
    """
    name = settings.name
    if not is_needed:
        return no_reference(settings)
    if name == "none":
        raise ConfigError(
            "this objective needs a reference and reference.name is 'none'; set it to 'initial'",
            code="needs_reference",
            key="reference.name",
        )
    if settings.reads_columns:
        if live:
            raise no_distributions(name)
        return ColumnReference()
    if settings.moves:
        assert settings.rate is not None, "checked by the settings"
        assert settings.period is not None, "checked by the settings"
        return MovingReference(policy.module, settings.rate, settings.period, LARGER * max_tokens)
    if live and settings.set_for_store:
        raise ConfigError(
            f"reference.{settings.set_for_store[0]} has no effect: this objective reads the reference's whole"
            " distributions, which are computed at every step and not stored; remove it",
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
    """Return the reference of an objective that needs none.

    Raises:
        ConfigError: a reference is named.
    """
    if settings.name not in ("auto", "none"):
        raise ConfigError(
            f"reference.name is {settings.name!r} and this objective needs no reference; remove reference.name",
            code="no_effect",
            key="reference.name",
        )
    return Reference()


def _load(settings: ReferenceSettings, policy: Policy) -> Policy:
    """Load another model on the policy's numeric path."""
    path, revision = settings.name, settings.revision
    if not Path(path).exists() and (close := difflib.get_close_matches(path, NAMES, n=1)):
        raise ConfigError(
            f"reference.name: there is no reference {path!r}; did you mean {close[0]!r}? Known names are"
            f" {', '.join(NAMES)}; anything else is a model folder or a name on the hub",
            code="unknown_name",
            key="reference.name",
        )
    if revision is not None and locate(path, key="reference.name").is_folder:
        raise ConfigError(
            f"reference.revision={revision} has no effect: reference.name={path} is a folder; remove it",
            code="no_effect",
            key="reference.revision",
        )
    model = ModelSettings(
        path,
        revision,
        dtype=policy.settings.dtype,
        precision=policy.module.precision,
        layout=policy.settings.layout,
    )
    loaded = load_policy(model, policy.module.device, key="reference.name")
    _refuse_other_tokens(path, loaded.tokenizer, policy.tokenizer)
    return loaded


def _refuse_other_tokens(path: str, tokenizer: Any, policy_tokenizer: Any) -> None:
    """Raise if a token of the policy has another id, or none, in the reference."""
    known = tokenizer.get_vocab()
    differing = [token for token, i in policy_tokenizer.get_vocab().items() if known.get(token) != i]
    if differing:
        raise ModelError(
            f"reference.name: {len(differing)} of the policy's tokens, such as {differing[0]!r}, have another id or"
            f" none in {path}. A reference reads the policy's token ids: name a model with the same tokenizer.",
            code="other_tokenizer",
            key="reference.name",
        )
