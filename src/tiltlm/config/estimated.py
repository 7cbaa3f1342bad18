"""Take the rate of wrong labels from a file of `tiltlm check --score --json`: `label_smoothing: estimated:FILE`."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tiltlm.core import ConfigError

log = logging.getLogger(__name__)

KNOB = "label_smoothing"
WORD = "estimated"
HOW = "tiltlm check DATA --model M --reference R --score --json > check.json"


def with_estimates(spec: Mapping[str, Any], section: str) -> dict[str, Any]:
    """Return the description of an objective with the rate of wrong labels as a number, and log what was taken.

    Args:
        spec: The objective as it was written. `label_smoothing` may be `estimated:FILE`.
        section: Its section, for messages.

    Raises:
        ConfigError: No file is named, it holds no estimate, or the estimate says too little.
    """
    given = spec.get(KNOB)
    if not isinstance(given, str) or given.partition(":")[0] != WORD:
        return dict(spec)
    key, name = f"{section}.{KNOB}", given.partition(":")[2].strip()
    if not name:
        raise ConfigError(
            f"{key}={WORD}: name the file with the estimate, {key}={WORD}:check.json; `{HOW}` writes it",
            code="missing_setting",
            key=key,
        )
    from tiltlm.diagnostics.label_noise import WIDE

    rate = _read(Path(name), key)
    low, high = float(rate["low"]), float(rate["high"])
    if not high - low <= WIDE:
        raise ConfigError(
            f"{key}: {name} says {low:.2f} to {high:.2f} for the rate of wrong labels, which is too wide to be used. "
            "Give a number, or score the pairs with a better policy",
            code="out_of_range",
            key=key,
        )
    value = float(rate["estimate"])
    text = "%s = %.3g, the rate of wrong labels that %s estimates (95 %% interval %.3g to %.3g)"
    log.info(text, key, value, name, low, high, extra={"event": "label_noise_taken", "value": value, "file": name})
    return {**spec, KNOB: value}


def _read(path: Path, key: str) -> Mapping[str, Any]:
    """Return the estimate that a file holds, with its interval.

    Raises:
        ConfigError: It holds none.
    """
    try:
        rate = json.loads(path.read_text(encoding="utf-8"))["numbers"]["label_noise"]["value"]
        if {"estimate", "low", "high"} <= rate.keys():
            return dict(rate)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    raise ConfigError(
        f"{key}: {path} has no estimate of the rate of wrong labels; `{HOW}` writes one", code="not_readable", key=key
    )
