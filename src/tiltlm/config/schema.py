"""The schema of a configuration, read off the settings' own dataclasses and the objectives' own signatures.

No key and no default is written here. Validation is pydantic's, with unknown keys refused.
"""

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from tiltlm.core import ConfigError
from tiltlm.objectives import knobs, resolve_name, spell_out
from tiltlm.recipes.settings import RunSettings

SECTIONS = {f.name: t for f, t in zip(fields(RunSettings), get_type_hints(RunSettings).values(), strict=True)}
"""Section → its dataclass; `objective` is a mapping that `objectives.composing` reads, `output` a path."""

SHORTHAND = {"model": "path", "data": "train", "objective": "name", "reference": "name"}
"""The key that a section's bare value stands for: `objective: dpo`."""

SWITCHES = {"model.lora"}
"""Settings whose value may be just `true`: the defaults of what they switch on."""


def keys_of(section: str) -> tuple[str, ...]:
    """The keys a section takes (an objective's knobs depend on its name, and are not among them)."""
    kind = SECTIONS[section]
    if section == "objective":
        return ("name",)
    return tuple(f.name for f in fields(kind)) if is_dataclass(kind) else ()


def qualify(key: str, objective: str | None) -> str:
    """The full name of a key given without its section: a knob of the objective, or the one section that has it.

    Raises:
        ConfigError: no section has it, or several do.
    """
    if "." in key or key in SECTIONS:
        return key
    own = {k.name for k in knobs(resolve_name(objective).name)} if objective is not None else set()
    if key in own:
        return f"objective.{key}"
    homes = [section for section in SECTIONS if key in keys_of(section)]
    if len(homes) == 1:
        return f"{homes[0]}.{key}"
    if homes:
        raise ConfigError(f"{key} is a key of {' and '.join(homes)}; write {homes[0]}.{key}")
    known = [f"{section}.{k}" for section in SECTIONS for k in keys_of(section)]
    known += [f"objective.{name}" for name in own]
    near = get_close_matches(key, [k.split(".")[1] for k in known], n=1)
    hint = f"; did you mean {next(k for k in known if k.endswith('.' + near[0]))}?" if near else ""
    raise ConfigError(f"{key}: no such setting{hint}")


def make_section(section: str, values: Any, where: Mapping[str, str]) -> Any:
    """A section's dataclass from plain values.

    Args:
        section: its name.
        values: what the configuration says; a bare value stands for the section's main key.
        where: place of each dotted key, for messages.

    Raises:
        ConfigError: an unknown key, a missing one, or a value of the wrong kind.
    """
    kind = SECTIONS[section]
    if not isinstance(values, Mapping):
        if section == "output":
            return Path(str(values))
        values = {SHORTHAND[section]: values} if section in SHORTHAND else values
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where.get(section, section)}: a section with keys is wanted, not {values!r}")
    if section == "objective":
        return _objective(values, where)
    values = {k: _switch(f"{section}.{k}", v) for k, v in values.items()}
    values = {k: v for k, v in values.items() if v is not _OFF}
    for key in values:
        if key not in keys_of(section):
            raise ConfigError(_unknown(f"{section}.{key}", keys_of(section), where))
    missing = [f.name for f in fields(kind) if f.default is f.default_factory is MISSING and f.name not in values]
    if missing:
        raise ConfigError(f"{section}.{missing[0]} is missing; it has no default")
    try:
        return TypeAdapter(kind).validate_python(dict(values), extra="forbid")
    except ValidationError as error:
        raise ConfigError(_first(section, error, where)) from error


def _objective(values: Mapping[str, Any], where: Mapping[str, str]) -> dict[str, Any]:
    try:
        return spell_out(values)
    except ConfigError as error:
        raise ConfigError(f"{_place(str(error), where)}{error}") from None


def _place(message: str, where: Mapping[str, str]) -> str:
    """Where the key stands with which a message begins, or the nearest one around it that stands somewhere."""
    key = message.split(" ", 1)[0].rstrip(":,;.")
    while key and key not in where:
        key = key.rpartition(".")[0]
    return f"{where[key]}: " if key else ""


_OFF = object()


def _switch(key: str, value: Any) -> Any:
    if key in SWITCHES and isinstance(value, bool):
        return {} if value else _OFF
    return value


def _unknown(key: str, known: tuple[str, ...], where: Mapping[str, str]) -> str:
    section, name = key.split(".", 1)
    near = get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    place = f"{where[key]}: " if key in where else ""
    return f"{place}{key}: no such setting{hint} {section} takes {', '.join(known)}"


def _first(section: str, error: ValidationError, where: Mapping[str, str]) -> str:
    """The first complaint of pydantic, in our form."""
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    path = [str(p) for p in first["loc"] if not (isinstance(p, str) and ("[" in p or p in ("str", "int", "float")))]
    key = ".".join([section, *path])
    place = f"{where[key]}: " if key in where else ""
    if isinstance(cause, Exception):
        return f"{place}{cause}"
    if first["type"] == "extra_forbidden":
        return f"{place}{key}: no such setting"
    return f"{place}{key} is {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"
