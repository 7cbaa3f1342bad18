"""Settings of a labelling project. They are stored in its database."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from tiltlm.core.checks import suggestion
from tiltlm.core.errors import ConfigError

Selection = Literal["random", "uncertain", "diverse", "disputed"]
SELECTIONS: tuple[Selection, ...] = get_args(Selection)

MAX_OVERLAP = 100


@dataclass(frozen=True)
class ProjectSettings:
    """How a project is labelled."""

    title: str = "Which response is better?"
    """Shown above every pair."""
    overlap: int = 2
    """Votes that each pair gets, by as many people."""
    extra: int = 1
    """Votes more for a pair whose first `overlap` votes disagree."""
    select: Selection = "random"
    """Which pairs come first. `random`; `uncertain`: smallest margin of a policy; `diverse`: prompts unlike those
    before; `disputed`: pairs whose votes disagree."""
    random_share: float = 0.1
    """Share of the pairs that come in random order whatever `select` is, for estimates without selection bias."""
    ties: bool = True
    """Offer a tie and "both bad"."""
    strength: bool = False
    """Ask how much better, 1 to 3, as a second key."""
    gold_share: float = 0.07
    """Share of pairs with a known answer among those a person sees, after calibration, where the project has any."""
    repeat_share: float = 0.05
    """Share of pairs that a person sees a second time, with the sides exchanged."""
    repeat_gap: int = 20
    """Least number of own votes between a pair and its repeat."""
    calibration: int = 0
    """Pairs with a known answer that each person votes on first, with feedback."""
    lease_minutes: float = 15.0
    """A pair that somebody was shown, and did not vote on, may be given to others after this time."""
    skip_reasons: tuple[str, ...] = ("cannot judge", "needs an expert", "broken or empty text", "harmful content")
    """Reasons of a skip that are offered."""
    seed: int = 0
    """Seed of the random order."""

    def __post_init__(self) -> None:
        if self.select not in SELECTIONS:
            raise ConfigError(
                f"--select is {self.select!r}{suggestion(self.select, SELECTIONS)} It must be one of "
                f"{', '.join(SELECTIONS)}",
                code="unknown_name",
                key="--select",
            )
        if not 1 <= self.overlap <= MAX_OVERLAP:
            raise ConfigError(
                f"--overlap is {self.overlap}; it must be from 1 to {MAX_OVERLAP}", code="not_in_range", key="--overlap"
            )
        for name in ("extra", "repeat_gap", "calibration"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"{option(name)} is {getattr(self, name)}; it must not be negative",
                    code="negative",
                    key=option(name),
                )
        if self.lease_minutes <= 0:
            raise ConfigError(
                f"--lease-minutes is {self.lease_minutes}; it must be above 0",
                code="not_positive",
                key="--lease-minutes",
            )
        for name in ("random_share", "gold_share", "repeat_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(
                    f"{option(name)} is {getattr(self, name)}; it must be from 0 to 1",
                    code="not_in_range",
                    key=option(name),
                )
        if self.gold_share + self.repeat_share > 0.5:
            raise ConfigError(
                f"--gold-share and --repeat-share are {self.gold_share + self.repeat_share} together; more than half "
                "of all votes would make no label",
                code="not_in_range",
                key="--gold-share",
            )
        if not self.skip_reasons:
            raise ConfigError("--skip-reasons is empty; name at least one", code="empty", key="--skip-reasons")

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def of(cls, values: dict[str, Any]) -> "ProjectSettings":
        """Return settings from plain values; names that this version does not know are left out."""
        known = {field.name for field in fields(cls)}
        read: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**{name: value for name, value in read.items() if name in known})


def option(name: str) -> str:
    """Return a setting as the command line calls it."""
    return f"--{name.replace('_', '-')}"
