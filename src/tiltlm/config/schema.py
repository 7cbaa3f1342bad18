"""The sections, keys and types of a command's settings, read from its settings dataclass.

No key and no default is written here. Each field of the dataclass is a section. A section is a dataclass itself, an
objective (its keys depend on the method), or a plain value. Pydantic checks values; unknown keys are refused.

Objectives need torch, which takes seconds to import. So it is imported only where an objective is read.
"""

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Generic, TypeVar, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from tiltlm.config.documents import parse_value
from tiltlm.config.estimated import with_estimates
from tiltlm.core import ConfigError
from tiltlm.core.checks import prefix_errors, suggestion
from tiltlm.core.needs import Spec

S = TypeVar("S")

CODES = {"unexpected_keyword_argument": "unknown_setting", "literal_error": "unknown_name"}
"""Pydantic's type of an error → our code; every other error is `wrong_type`."""


class Text(str):
    """The text of a setting from the command line. How it is read depends on the type of the setting."""


class Schema(Generic[S]):
    """What the settings of one kind of command may contain."""

    def __init__(self, kind: type[S]) -> None:
        """Read the sections of `kind`, the settings dataclass of a recipe."""
        self.kind = kind
        self.sections = _types(kind)
        """Section → its type."""
        self.required = [f.name for f in fields(kind) if f.default is f.default_factory is MISSING]  # type: ignore[arg-type]
        """Sections without a default."""

    def is_objective(self, section: str) -> bool:
        """Return whether a section describes an objective; its keys depend on the method it names."""
        return bool(self.sections[section] == Spec)

    def keys(self, section: str) -> dict[str, Any]:
        """Return the keys of a section and their types; of an objective only `name`, which every method has."""
        return {"name": str} if self.is_objective(section) else _types(self.sections[section])

    def main_key(self, section: str) -> str | None:
        """Return the key that a bare value of a section stands for: its first key, if that one takes text.

        `objective: dpo` means `objective: {name: dpo}`.
        """
        first = next(iter(self.keys(section).items()), None)
        return first[0] if first is not None and _takes_text(first[1]) else None

    def spell_out(self, key: str) -> str:
        """Return `objective` as `objective.name`: a section as its main key, any other key as it is."""
        main = self.main_key(key) if key in self.sections else None
        return key if main is None else f"{key}.{main}"

    def expand(self, section: str, value: Any) -> Any:
        """Return a section's value as a mapping of its keys where it can be one."""
        if isinstance(value, Mapping):
            return dict(value)
        main = self.main_key(section)
        return value if main is None else {main: value}

    def home_of(self, key: str) -> str | None:
        """Return the full name of a key that is given without its section; None if no section is known to have it.

        Such a key is the objective's, or a mistake: see `knob_of`. No method has a knob with the name of a key here.

        Args:
            key: `seed` or `training.seed`.

        Raises:
            ConfigError: Several sections have the key.
        """
        if "." in key or key in self.sections:
            return key
        homes = self._homes(key)
        if len(homes) > 1:
            raise ConfigError(
                f"{key} is a key of {' and '.join(homes)}; write {homes[0]}.{key}", code="ambiguous_setting", key=key
            )
        return f"{homes[0]}.{key}" if homes else None

    def knob_of(self, key: str, objective: str | None) -> str:
        """Return the full name of a knob of the objective that is given without its section.

        Args:
            key: `beta`.
            objective: Name of the method.

        Raises:
            ConfigError: The method does not have it, or it is another library's name of a knob.
        """
        from tiltlm.objectives import knobs, resolve_name
        from tiltlm.objectives.catalog.names import refuse_foreign

        known = set()
        if objective is not None:
            with prefix_errors("objective"):
                method = resolve_name(objective).name
                known = {k.name for k in knobs(method)}
                refuse_foreign(method, {key: None})
        if key in known:
            return f"objective.{key}"
        hint = suggestion(key, known)  # the objective's own are suggested first
        if hint == ".":
            hint = suggestion(key, [*self.sections, *(k for section in self.sections for k in self.keys(section))])
        if hint == "." and objective is not None:
            hint = f". {objective} takes {', '.join(sorted(known)) or 'no settings'}"
        raise ConfigError(f"{key}: this setting does not exist{hint}", code="unknown_setting", key=key)

    def read_text(self, key: str, text: str) -> Any:
        """Return the value of a text from the command line, read as YAML.

        Where the setting is text itself, a number or a date stays text: `data.revision=12345` is no number.

        Args:
            key: Full or bare name of the setting.
            text: What stands after `KEY=`, or after an option.
        """
        kind, value = self._type_of(key), parse_value(text)
        keeps_type = value is None or isinstance(value, Mapping | list | str) or type(value) in get_args(kind)
        return value if kind is None or not _takes_text(kind) or keeps_type else str(text)

    def make(self, section: str, value: Any, where: Mapping[str, str]) -> Any:
        """Return the value of a section, checked, as its dataclass.

        Args:
            section: Its name.
            value: Plain values; a bare value stands for the main key.
            where: Place of each dotted key, for messages.

        Raises:
            ConfigError: A key is unknown or missing, or a value has the wrong type.
        """
        kind = self.sections[section]
        if kind is Path:
            if isinstance(value, Mapping | list):
                error = ConfigError(
                    f"{section} is {value!r}; it must be one path, without keys", code="wrong_type", key=section
                )
                raise _with_place(error, where)
            return Path(str(value))
        if not self.keys(section):
            return self._validate(section, kind, value, where)
        values = self.expand(section, value)
        if not isinstance(values, Mapping):
            raise ConfigError(
                f"{where.get(section, section)}: {values!r} is not a mapping; {section} is a section with keys",
                code="wrong_type",
                key=section,
            )
        if self.is_objective(section):
            from tiltlm.objectives import spell_out

            try:
                return spell_out(with_estimates(values, section))
            except ConfigError as error:
                raise _with_place(error, where) from None
        known = self.keys(section)
        for key in values:
            if key not in known:
                raise _unknown(f"{section}.{key}", tuple(known), where)
        for field in fields(kind):
            if field.default is field.default_factory is MISSING and field.name not in values:
                key = f"{section}.{field.name}"
                raise ConfigError(f"{key} is missing; it has no default", code="missing_setting", key=key)
        return self._validate(section, kind, {k: _switched(known[k], v) for k, v in values.items()}, where)

    def _validate(self, section: str, kind: Any, value: Any, where: Mapping[str, str]) -> Any:
        """Return the value as `kind`; raise ConfigError for the first error that pydantic finds."""
        try:
            with prefix_errors(section):
                _check_numbers(kind, value)
        except ConfigError as error:
            raise _with_place(error, where) from None
        try:
            return TypeAdapter(kind).validate_python(value, extra="forbid" if is_dataclass(kind) else None)
        except ValidationError as error:
            raise _first_error(section, error, where) from error

    def _homes(self, key: str) -> list[str]:
        """Return the sections that have a key."""
        return [section for section in self.sections if key in self.keys(section)]

    def _type_of(self, key: str) -> Any:
        """Return the type of a setting; None where it is unknown or depends on the objective."""
        homes = self._homes(key)
        if "." not in key and key not in self.sections and len(homes) == 1:
            key = f"{homes[0]}.{key}"
        section, *path = key.split(".")
        if section not in self.sections or self.is_objective(section):
            return None
        kind = self.sections[section]
        if not path and (main := self.main_key(section)) is not None:
            path = [main]
        for name in path:
            inner = next((k for k in (kind, *get_args(kind)) if is_dataclass(k)), None)
            kind = None if inner is None else _types(inner).get(name)
        return kind


def _types(kind: Any) -> dict[str, Any]:
    """Return the fields of a dataclass and their types; nothing for what is no dataclass."""
    if not is_dataclass(kind):
        return {}
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _takes_text(kind: Any) -> bool:
    return not {str, Path}.isdisjoint((kind, *get_args(kind)))


def _switched(kind: Any, value: Any) -> Any:
    """Return `true` as the defaults of an optional dataclass, and `false` as None: `lora: true`."""
    optional = NoneType in get_args(kind) and any(is_dataclass(k) for k in get_args(kind))
    return ({} if value else None) if optional and isinstance(value, bool) else value


def _check_numbers(kind: Any, value: Any, key: str = "") -> None:
    """Refuse what pydantic and Python take as numbers: booleans, and whole numbers beyond 64 bits.

    Raises:
        ConfigError: The message and the key begin with the path inside the section.
    """
    kinds = {kind, *get_args(kind)}
    inner = next((k for k in kinds if is_dataclass(k)), None)
    if inner is not None and isinstance(value, Mapping):
        for name, found in _types(inner).items():
            if name in value:
                _check_numbers(found, value[name], f"{key}.{name}" if key else name)
    elif isinstance(value, bool) and bool not in kinds and kinds & {int, float}:
        raise ConfigError(f"{key} is {str(value).lower()}; it must be a number", code="wrong_type", key=key)
    elif isinstance(value, int | float) and int in kinds and float not in kinds and not abs(value) < 2**63:
        raise ConfigError(f"{key} is {value}; it must be a whole number below 2⁶³", code="out_of_range", key=key)


def _with_place(error: ConfigError, where: Mapping[str, str]) -> ConfigError:
    """Return the error with the place of its key before its message, or of the nearest section around that key."""
    key = error.key or ""
    while key and key not in where:
        key = key.rpartition(".")[0]
    place = f"{where[key]}: " if key else ""
    return ConfigError(f"{place}{error}", code=error.code, key=error.key)


def _unknown(key: str, known: tuple[str, ...], where: Mapping[str, str]) -> ConfigError:
    section, name = key.split(".", 1)
    error = ConfigError(
        f"{key}: this setting does not exist{suggestion(name, known)} Keys of {section}: {', '.join(known)}",
        code="unknown_setting",
        key=key,
    )
    return _with_place(error, where)


def _is_type(part: str) -> bool:
    """Return whether a part of a place that pydantic gives names a type; names of settings have no capitals."""
    return "[" in part or part in ("str", "int", "float") or part[:1].isupper()


def _first_error(section: str, error: ValidationError, where: Mapping[str, str]) -> ConfigError:
    """Return the first error of pydantic as ours; of a value that may be of several kinds, that of the nearest kind."""
    errors = error.errors()
    of_first = [e for e in errors if e["loc"][:1] == errors[0]["loc"][:1]]
    causes = [e.get("ctx", {}).get("error") for e in of_first]
    for cause in causes:
        if isinstance(cause, ConfigError):
            return _with_place(cause, where)
    first = max(of_first, key=lambda e: len(e["loc"]))
    path = [str(p) for p in first["loc"] if not (isinstance(p, str) and _is_type(p))]
    key = ".".join([section, *path])
    code = CODES.get(first["type"], "wrong_type")
    message = f"{key} is {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"
    if first["type"] == "literal_error":  # a union of several lists of names gives several errors
        known = [e["ctx"]["expected"].replace(" or ", ", ") for e in of_first]
        message = f"{key} is {first['input']!r}; known: {', '.join(known)}"
    if code == "unknown_setting":
        message = f"{key}: this setting does not exist"
    place = f"{where[key]}: " if key in where else ""
    return ConfigError(f"{place}{message}", code=code, key=key)
