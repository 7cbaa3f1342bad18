"""What is asked of the labelling app, as plain settings. Nothing heavy is imported for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tiltlm.core.errors import ConfigError
from tiltlm.labeling.project import Selection
from tiltlm.recipes.answers.judged import Pairing


@dataclass(frozen=True)
class SourceRequest:
    """Where pairs come from."""

    sources: tuple[str, ...]
    """A data file; a model or run; or two and more systems: models, runs, files of answers. Each PATH or NAME=PATH."""
    prompts: str | None = None
    """Prompts that models answer."""
    n: int = 2
    """Answers of each model to each prompt."""
    temperatures: str | float | Sequence[float] = 1.0
    max_new_tokens: int = 256
    limit: int | None = None
    """Most prompts, or rows of data."""
    comparisons: Pairing | None = None
    """Which responses of a list are compared; None: all."""
    seed: int = 0

    @property
    def pairing(self) -> Pairing:
        """Which responses of a list are compared."""
        return self.comparisons or Pairing("all")


@dataclass(frozen=True)
class MarginSettings:
    """A policy whose implicit reward says how certain it is of a pair: β·(log π − log π_ref)."""

    model: str | None = None
    reference: str | None = None
    beta: float = 1.0


def check_selection(select: Selection, margins: MarginSettings) -> None:
    """Refuse options of the selection that have no effect, or of which one is missing.

    Raises:
        ConfigError: It is so.
    """
    given = {"--model": margins.model, "--reference": margins.reference}
    if select != "uncertain":
        for option, value in given.items():
            if value is not None:
                raise ConfigError(f"{option} has no effect without --select uncertain", code="no_effect", key=option)
    missing = [option for option, value in given.items() if value is None]
    if len(missing) == 1:
        raise ConfigError(
            f"{missing[0]} is missing: the margin of a pair is that of an implicit reward, β·(log π − log π_ref); give "
            "--model M and --reference R, or neither and a column `margin`",
            code="missing_setting",
            key=missing[0],
        )


@dataclass(frozen=True)
class PrepareRequest:
    """A project to make, or to continue."""

    database: str
    sources: SourceRequest
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the project that are given; others are as they were, or at their defaults."""
    gold: Path | None = None
    guidelines: Path | None = None
    margins: MarginSettings = field(default_factory=MarginSettings)
    keep_all: bool = False
