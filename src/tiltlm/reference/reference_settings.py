"""The settings of a reference, and what they rule out before anything is loaded."""

from dataclasses import dataclass
from pathlib import Path

from tiltlm.core.checks import positive, suggestion
from tiltlm.core.errors import ConfigError
from tiltlm.models.folders import check_reachable, locate
from tiltlm.storage.cache import cache_folder
from tiltlm.storage.files import check_writable

NAMES = ("auto", "initial", "base", "moving", "none", "columns")

STORE_LIMIT = 20.0
"""Default of `store_limit`, in gigabytes: about fifty million sequences of ordinary length."""


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


def default_store_folder() -> Path:
    """Return `$TILTLM_STORE`, or the folder `tiltlm/reference` in the user's cache folder."""
    return cache_folder("reference", "TILTLM_STORE")


def store_folder(settings: ReferenceSettings) -> Path:
    """Return the folder that stores log-probabilities for all runs."""
    return Path(settings.store).expanduser() if settings.store else default_store_folder()


def check_reference(settings: ReferenceSettings, *, is_needed: bool, live: bool) -> None:
    """Refuse a reference that does not fit the objective or cannot be found. Nothing is loaded.

    Args:
        settings: The settings of the reference.
        is_needed: True if the objective compares with a reference (`objective.needs_reference`).
        live: True if the objective also reads whole distributions.

    Raises:
        ConfigError: the objective needs a reference and none is named, one is named and not needed, a setting has no
            effect, or the store cannot be written.
        ModelError: the reference is a folder that cannot be used.
    """
    name = settings.name
    if not is_needed:
        if name not in ("auto", "none"):
            raise ConfigError(
                f"reference.name is {name!r} and this objective needs no reference; remove reference.name",
                code="no_effect",
                key="reference.name",
            )
        return
    if name == "none":
        raise ConfigError(
            "this objective needs a reference and reference.name is 'none'; set it to 'initial'",
            code="needs_reference",
            key="reference.name",
        )
    if settings.reads_columns and live:
        raise no_distributions(name)
    if live and settings.set_for_store:
        raise ConfigError(
            f"reference.{settings.set_for_store[0]} has no effect: this objective reads the reference's whole"
            " distributions, which are computed at every step and not stored; remove it",
            code="no_effect",
            key=f"reference.{settings.set_for_store[0]}",
        )
    if name not in NAMES:
        _check_other(settings)
    if settings.cache and settings.is_storable and not live:
        _check_store(store_folder(settings))


def no_distributions(name: str) -> ConfigError:
    """Return the error of an objective that reads whole distributions of a reference without weights."""
    return ConfigError(
        f"this objective reads the reference's whole distribution at every token, and the reference {name!r} has no"
        " weights; set reference.name to 'initial', 'base' or a model folder",
        code="needs_reference_weights",
        key="reference.name",
    )


def no_adapter() -> ConfigError:
    """Return the error of a reference `base` for a model without adapters."""
    return ConfigError(
        "reference.name is 'base', which means the model without its adapters, and this model has no adapter; set"
        " reference.name to 'initial'",
        code="no_adapter",
        key="reference.name",
    )


def _check_other(settings: ReferenceSettings) -> None:
    """Refuse another model that is not there, or a revision of a folder."""
    path, revision = settings.name, settings.revision
    if not Path(path).exists() and (hint := suggestion(path, NAMES)) != ".":
        raise ConfigError(
            f"reference.name: there is no reference {path!r}{hint} Known names are"
            f" {', '.join(NAMES)}; anything else is a model folder or a name on the hub",
            code="unknown_name",
            key="reference.name",
        )
    located = locate(path, key="reference.name")
    check_reachable(located)
    if located.is_folder and revision is not None:
        raise ConfigError(
            f"reference.revision={revision} has no effect: reference.name={path} is a folder; remove it",
            code="no_effect",
            key="reference.revision",
        )


def _check_store(folder: Path) -> None:
    try:
        check_writable(folder)
    except OSError as error:
        raise ConfigError(
            f"reference store {folder}: {error.strerror}. Choose another folder (--store), or set"
            " reference.cache=false",
            code="not_writable",
            key="reference.store",
        ) from error
