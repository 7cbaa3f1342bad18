"""The settings of `tiltlm sample` (model, data with the prompts, sampling, engine), and what is asked of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tiltlm.core import ConfigError
from tiltlm.data import DataSettings
from tiltlm.data.data_settings import FILE_KEYS, LABEL_KEYS
from tiltlm.data.distinct_prompts import TooLong
from tiltlm.models import ModelSettings
from tiltlm.sampling import SamplingSettings
from tiltlm.sampling.engines import EngineSettings

SAMPLE_READS = (
    *LABEL_KEYS,
    *FILE_KEYS,
    *(f"model.{name}" for name in ("path", "revision", "dtype", "precision", "adapter", "trust_remote_code")),
    *(f"data.{name}" for name in ("train", "split", "subset", "revision", "columns", "ignore", "on_bad", "max_bad")),
    *(f"data.{name}" for name in ("as_chat", "transcripts", "chat_template", "chat_template_kwargs")),
    *("sampling", "engine.name", "engine.server", "engine.model", "engine.logprobs", "engine.score"),
    *("engine.key_variable", "engine.timeout"),
)
"""Settings that sampling reads, beside those of the command itself."""
DEFAULTS = {"sampling": {"max_rows": 128}}
"""Defaults of this command that differ from those elsewhere: a chunk is what an interruption can lose."""


@dataclass(frozen=True)
class SampleSettings:
    """All settings of a model's answers."""

    model: ModelSettings
    data: DataSettings
    """Its distinct prompts are answered."""
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)


@dataclass(frozen=True)
class SampleRequest:
    """How many answers are drawn, and where they go."""

    n: int = 1
    """Answers to each prompt, at each temperature above 0. At 0 all would be equal, so one is drawn."""
    temperatures: tuple[float, ...] = (1.0,)
    seed: int = 0
    limit: int | None = None
    """Most prompts."""
    too_long: TooLong = "drop"
    output: Path | None = None
    """The file to write; None: none."""
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name, value in (("n", self.n), ("limit", self.limit)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1", code="not_positive", key=name)
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}; it must be 0 or more", code="negative", key="seed")
        if self.too_long not in ("drop", "error"):
            raise ConfigError(
                f"too_long is {self.too_long!r}; it must be drop or error", code="unknown_name", key="too_long"
            )
        if not self.temperatures or len(set(self.temperatures)) < len(self.temperatures):
            raise ConfigError(
                f"temperatures are {list(self.temperatures)}; give one or several different numbers",
                code="duplicate",
                key="temperatures",
            )
        if self.output is None and (self.resume or self.overwrite):
            raise ConfigError(
                "resume and overwrite have no effect without an output file; name one: output=FILE",
                code="no_effect",
                key="output",
            )


def read_temperatures(given: str | float | Sequence[float] | None, default: float) -> tuple[float, ...]:
    """Return temperatures from a list, a number, or a text such as `0,0.7,1`.

    Raises:
        ConfigError: A part of the text is no number.
    """
    if given is None:
        return (default,)
    single = [given] if isinstance(given, int | float) else given
    parts: Sequence[str | float] = single.split(",") if isinstance(single, str) else single
    try:
        return tuple(float(part) for part in parts)
    except ValueError as error:
        raise ConfigError(
            f"temperatures are {given!r}; write numbers with commas: 0,0.7,1", code="wrong_type", key="temperatures"
        ) from error
