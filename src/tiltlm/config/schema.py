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
from tiltlm.core.checks import prefix_errors
from tiltlm.objectives import knobs, resolve_name, spell_out
from tiltlm.recipes.run_settings import RunSettings

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
    with prefix_errors("objective"):
        own = {k.name for k in knobs(resolve_name(objective).name)} if objective is not None else set()
    if key in own:
        return f"objective.{key}"
    homes = [section for section in SECTIONS if key in keys_of(section)]
    if len(homes) == 1:
        return f"{homes[0]}.{key}"
    if homes:
        raise ConfigError(
            f"{key} is a key of {' and '.join(homes)}; write {homes[0]}.{key}", code="ambiguous_setting", key=key
        )
    known = [f"{section}.{k}" for section in SECTIONS for k in keys_of(section)]
    known += [f"objective.{name}" for name in own]
    near = get_close_matches(key, [k.split(".")[1] for k in known], n=1)
    hint = f"; did you mean {next(k for k in known if k.endswith('.' + near[0]))}?" if near else ""
    raise ConfigError(f"{key}: no such setting{hint}", code="unknown_setting", key=key)


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
        raise ConfigError(
            f"{where.get(section, section)}: a section with keys is wanted, not {values!r}",
            code="wrong_type",
            key=section,
        )
    if section == "objective":
        return _objective(values, where)
    values = {k: _switch(f"{section}.{k}", v) for k, v in values.items()}
    values = {k: v for k, v in values.items() if v is not _OFF}
    for key in values:
        if key not in keys_of(section):
            raise _unknown(f"{section}.{key}", keys_of(section), where)
    missing = [f.name for f in fields(kind) if f.default is f.default_factory is MISSING and f.name not in values]
    if missing:
        raise ConfigError(
            f"{section}.{missing[0]} is missing; it has no default",
            code="missing_setting",
            key=f"{section}.{missing[0]}",
        )
    try:
        return TypeAdapter(kind).validate_python(dict(values), extra="forbid")
    except ValidationError as error:
        raise _first(section, error, where) from error


def _objective(values: Mapping[str, Any], where: Mapping[str, str]) -> dict[str, Any]:
    try:
        return spell_out(values)
    except ConfigError as error:
        raise _with_place(error, where) from None


def _with_place(error: ConfigError, where: Mapping[str, str]) -> ConfigError:
    """Put the place of the error's key before its message, or the place of the nearest section around that key."""
    key = error.key or ""
    while key and key not in where:
        key = key.rpartition(".")[0]
    place = f"{where[key]}: " if key else ""
    return ConfigError(f"{place}{error}", code=error.code, key=error.key)


_OFF = object()


def _switch(key: str, value: Any) -> Any:
    if key in SWITCHES and isinstance(value, bool):
        return {} if value else _OFF
    return value


def _unknown(key: str, known: tuple[str, ...], where: Mapping[str, str]) -> ConfigError:
    section, name = key.split(".", 1)
    near = get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    place = f"{where[key]}: " if key in where else ""
    return ConfigError(
        f"{place}{key}: no such setting{hint} {section} takes {', '.join(known)}", code="unknown_setting", key=key
    )


RULES = {"unexpected_keyword_argument": "unknown_setting", "literal_error": "unknown_name"}
"""Pydantic's type of a complaint → our code; every other complaint is about a type."""


def _first(section: str, error: ValidationError, where: Mapping[str, str]) -> ConfigError:
    """The first complaint of pydantic, in our form."""
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):
        return _with_place(cause, where)
    path = [str(p) for p in first["loc"] if not (isinstance(p, str) and ("[" in p or p in ("str", "int", "float")))]
    key = ".".join([section, *path])
    place = f"{where[key]}: " if key in where else ""
    code = RULES.get(first["type"], "wrong_type")
    if code == "unknown_setting":
        return ConfigError(f"{place}{key}: no such setting", code=code, key=key)
    message = f"{place}{key} is {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"
    return ConfigError(message, code=code, key=key)
