"""Constitutions: principles by which a model criticises its own answer and writes it again."""

import difflib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tiltlm.core.errors import ConfigError

DEFAULT = Path(__file__).with_suffix(".yaml")
FIELDS = ("id", "principle", "critique", "revision", "weight")
META = ("here is", "here's", "sure", "certainly", "of course", "revised answer", "revision:", "rewritten")
"""What an answer starts with that speaks about itself; such a revision is not used. Compared in lower case."""
SAME = 0.98
"""A revision that is this similar to its draft, from 0 to 1, has changed nothing."""


@dataclass(frozen=True)
class Principle:
    """One principle."""

    id: str
    principle: str
    """What an answer should be, as a sentence."""
    critique: str
    """The request to criticise the last answer."""
    revision: str
    """The request to write it again."""
    weight: float = 1.0

    @property
    def asks_critique(self) -> str:
        """The text of the first request."""
        return f"{self.critique}\nThe principle: {self.principle}"

    @property
    def asks_revision(self) -> str:
        """The text of the second request."""
        return f"{self.revision}\nWrite the answer itself and nothing else."


def read_constitution(path: Path) -> tuple[Principle, ...]:
    """Read the principles of a YAML file: a list of mappings with `id`, `principle`, `critique`, `revision`, `weight`.

    Raises:
        ConfigError: The file is missing, is no such list, or a principle has an unknown, missing or wrong value.
    """
    key = "rivals.constitution"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{key}={path} cannot be read ({error.strerror})", code="no_such_path", key=key) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{key}={path} is not YAML ({error})", code="damaged", key=key) from error
    if not isinstance(content, list) or not content:
        raise ConfigError(
            f"{key}={path} must be a list of principles, each with {', '.join(FIELDS[:-1])}", code="wrong_type", key=key
        )
    found = tuple(_principle(values, f"{key}={path}: principle {number + 1}") for number, values in enumerate(content))
    names = [one.id for one in found]
    if len(set(names)) < len(names):
        raise ConfigError(f"{key}={path}: an id occurs twice among {', '.join(names)}", code="duplicate", key=key)
    return found


def _principle(values: Any, place: str) -> Principle:
    key = "rivals.constitution"
    if not isinstance(values, Mapping):
        raise ConfigError(f"{place} must be a mapping with {', '.join(FIELDS[:-1])}", code="wrong_type", key=key)
    for name in values.keys() - set(FIELDS):
        raise ConfigError(f"{place}: {name} is unknown; it has {', '.join(FIELDS)}", code="unknown_setting", key=key)
    for name in FIELDS[:-1]:
        if not isinstance(values.get(name), str) or not values[name].strip():
            raise ConfigError(f"{place}: {name} must be a text", code="wrong_type", key=key)
    weight = values.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
        raise ConfigError(f"{place}: weight is {weight!r}; it must be above 0", code="not_positive", key=key)
    return Principle(**{name: values[name].strip() for name in FIELDS[:-1]}, weight=float(weight))


def choose(principles: Sequence[Principle], draft: str, seed: int) -> Principle:
    """Return the principle of a draft, in proportion to the weights: a pure function of the draft's name and the seed.

    Args:
        principles: All principles.
        draft: Name of the draft.
        seed: Another seed gives other principles.
    """
    digest = hashlib.blake2b(f"{seed}\x1f{draft}".encode(), digest_size=8).digest()
    goal = int.from_bytes(digest, "big") / 2**64 * sum(one.weight for one in principles)
    for one in principles:
        goal -= one.weight
        if goal < 0:
            return one
    return principles[-1]


def why_not(draft: str, revision: str) -> str:
    """Return why a revision is not used: `empty`, `meta_text` or `no_change`; "" if it is."""
    text = revision.strip()
    if not text:
        return "empty"
    if text.lower().startswith(META):
        return "meta_text"
    if difflib.SequenceMatcher(None, draft.strip(), text, autojunk=False).ratio() >= SAME:
        return "no_change"
    return ""
