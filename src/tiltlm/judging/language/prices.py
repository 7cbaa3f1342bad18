"""Prices of models, from a file of the user's: a price that is not there is unknown, never 0."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tiltlm.core.errors import ConfigError

PER = 1_000_000
"""Tokens that a price is for."""


@dataclass(frozen=True)
class Price:
    """Price of a million tokens."""

    input: float
    output: float

    def of(self, tokens_in: int, tokens_out: int) -> float:
        """Return what this many tokens cost."""
        return (tokens_in * self.input + tokens_out * self.output) / PER


def read_price(path: str | None, model: str) -> Price | None:
    """Return the price of a model; None if the file does not name it, or there is no file.

    The file is YAML: `MODEL: {input: 0.15, output: 0.6}`, in any currency, for a million tokens.

    Raises:
        ConfigError: The file cannot be read, or an entry is no price.
    """
    if path is None:
        return None
    try:
        content: Any = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"judge.prices={path}: no such file", code="no_such_path", key="judge.prices") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"judge.prices={path} is not YAML: {error}", code="damaged", key="judge.prices") from error
    if not isinstance(content, Mapping):
        raise _no_price(path, content)
    entry = content.get(model)
    if entry is None:
        return None
    if not isinstance(entry, Mapping) or set(entry) != {"input", "output"}:
        raise _no_price(path, entry)
    values = [entry["input"], entry["output"]]
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v < math.inf for v in values):
        raise _no_price(path, entry)
    return Price(*map(float, values))


def _no_price(path: str, found: object) -> ConfigError:
    return ConfigError(
        f"judge.prices={path} has {found!r}; write MODEL: {{input: 0.15, output: 0.6}}, prices of a million tokens",
        code="wrong_type",
        key="judge.prices",
    )
