"""Merge defaults, a YAML file and overrides into the settings of a command; later ones win."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from tiltlm.config.command import OPTIONS
from tiltlm.config.documents import read_document
from tiltlm.config.in_memory import plain
from tiltlm.config.schema import Schema, Text
from tiltlm.core import ConfigError

S = TypeVar("S")
Config = str | Path | Mapping[str, Any] | None
"""A YAML file, its content as a mapping, or nothing."""


def resolve(
    kind: type[S],
    config: Config = None,
    defaults: Mapping[str, Any] = MappingProxyType({}),
    reads: Sequence[str] | None = None,
    /,
    **overrides: Any,
) -> S:
    """Return the settings of a command.

    Args:
        kind: The settings dataclass.
        config: A YAML file, or its content.
        defaults: Sections that the command itself sets; file and overrides win over them.
        reads: Sections and dotted keys that the command reads; None: all. Overrides of others are refused. A file may
            have others: commands share it.
        **overrides: Sections, dotted keys, or bare keys that only one section has; they win over `config`.

    Raises:
        ConfigError: A key is unknown or missing, an override has no effect, or a value is impossible; the message names
            the place.
    """
    schema = Schema(kind)
    tree, where = gather(schema, config, defaults, overrides)
    if reads is not None:
        _refuse_unread(schema, overrides, reads, _method(tree))
    for section in schema.required:
        if section not in tree:
            option = f"give --{section}, " if section in OPTIONS else ""
            raise ConfigError(
                f"{section} is missing; {option}set {section}=..., or add it to the configuration file",
                code="missing_setting",
                key=section,
            )
    return kind(**{section: schema.make(section, value, where) for section, value in tree.items()})


def gather(
    schema: Schema[Any], config: Config, defaults: Mapping[str, Any], overrides: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the merged sections, and the place of each dotted key that comes from a file."""
    overrides = {
        key: plain(schema.read_text(key, v) if isinstance(v, Text) else v, key) for key, v in overrides.items()
    }
    tree: dict[str, Any] = {}
    where: dict[str, str] = {}
    if isinstance(config, Mapping):
        tree = {key: plain(value, key) for key, value in config.items()}
    elif config is not None:
        found, lines = read_document(Path(config))
        tree = {key: plain(value, key) for key, value in found.items()}
        where = {key: f"{config}:{line}" for key, line in lines.items()}
    for key in tree:
        if key not in schema.sections:
            raise _no_section(schema, key, key, where.get(key))
    tree = {k: schema.expand(k, v) for k, v in {**defaults, **tree}.items() if v is not None}
    for section in (k for k in overrides if k in schema.sections):  # sections first: knobs depend on the objective
        given, known = schema.expand(section, overrides[section]), tree.get(section)
        if not isinstance(given, dict) or not isinstance(known, dict) or _is_another(schema, section, known, given):
            tree[section] = given
            _drop_places(where, [section])
        else:
            tree[section] = {**known, **given}
            _drop_places(where, [f"{section}.{key}" for key in given])
    for key, value in overrides.items():
        if key not in schema.sections:
            full = schema.qualify(key, _method(tree))
            section, *path = full.split(".")
            if section not in schema.sections:
                raise _no_section(schema, section, full)
            tree[section] = _set(tree.get(section), path, value, full)
            _drop_places(where, [full])
    return tree, where


def _refuse_unread(schema: Schema[Any], overrides: Mapping[str, Any], reads: Sequence[str], method: str | None) -> None:
    """Refuse an override of a setting that the command does not read."""
    for name, value in overrides.items():
        key = schema.qualify(name, method)
        value = schema.expand(key, value) if key in schema.sections else value
        inner = [f"{key}.{k}" for k in value] if key in schema.sections and isinstance(value, Mapping) else [key]
        for full in inner:
            if not any(f"{full}.".startswith(f"{known}.") for known in reads):
                raise ConfigError(
                    f"{full} has no effect in this command, which reads {', '.join(reads)}; remove it",
                    code="no_effect",
                    key=full,
                )


def parse_overrides(pairs: Sequence[str]) -> dict[str, Text]:
    """Return `key=value` arguments as a mapping of texts.

    Raises:
        ConfigError: An argument is not of the form `key=value`.
    """
    overrides = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ConfigError(
                f"{pair!r} is not an override; write key=value, such as objective.beta=0.2", code="not_key_value"
            )
        overrides[key.strip()] = Text(value)
    return overrides


def parse_grid(schema: Schema[Any], pairs: Sequence[str]) -> dict[str, list[Any]]:
    """Return `key=v1,v2,...` arguments as lists of values; a bracketed `[a, b]` is one value that is a list."""
    return {
        key: [schema.read_text(key, v) for v in ([text] if text.startswith(("[", "{")) else text.split(","))]
        for key, text in parse_overrides(pairs).items()
    }


def read_points(points: str | Path | Mapping[str, Mapping[str, Any]] | None) -> dict[str, dict[str, Any]]:
    """Return the settings of each named point; without points, one without a name that sets nothing.

    Raises:
        ConfigError: A point is no mapping of settings.
    """
    if points is None:
        return {"": {}}
    named = points if isinstance(points, Mapping) else read_document(Path(points))[0]
    for name, bundle in named.items():
        if not isinstance(bundle, Mapping):
            raise ConfigError(
                f"point {name}: {bundle!r} must be a mapping of settings, such as "
                "{objective: ipo, training.learning_rate: 1e-6}",
                code="wrong_type",
                key="points",
            )
    return {str(name): dict(bundle) for name, bundle in named.items()}


def refuse_given_twice(
    schema: Schema[Any], grid: Mapping[str, Any], settings: Mapping[str, Any], *bundles: Mapping[str, Any]
) -> None:
    """Raise if a key of a sweep is given in two places: in the grid, in a point, or for all runs."""
    for first, second in [(grid, settings), *((grid, bundle) for bundle in bundles), *((settings, b) for b in bundles)]:
        for key in sorted({schema.spell_out(k) for k in first} & {schema.spell_out(k) for k in second}):
            raise ConfigError(
                f"{key} is given twice: in the grid, in a point, or for all runs; remove one", code="duplicate", key=key
            )


def _no_section(schema: Schema[Any], section: str, key: str, place: str | None = None) -> ConfigError:
    return ConfigError(
        f"{place or key}: there is no section {section!r}; sections: {', '.join(schema.sections)}",
        code="unknown_setting",
        key=key,
    )


def _method(tree: Mapping[str, Any]) -> str | None:
    """Return the name of the method that is configured so far."""
    objective = tree.get("objective")
    return objective.get("name") if isinstance(objective, Mapping) else None


def _is_another(schema: Schema[Any], section: str, known: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    """Return whether an override names another objective, so that nothing of the known one is kept."""
    if not schema.is_objective(section):
        return False
    is_renamed = any(key in given and given[key] != known.get(key) for key in ("name", "sum"))
    return is_renamed or ("reward" in given and "reward" not in known)


def _set(inside: Any, path: Sequence[str], value: Any, key: str) -> Any:
    """Return a copy of `inside` with `value` at a path through mappings and lists; `key` is its full name."""
    if not path:
        return value
    first, *rest = path
    if isinstance(inside, list):
        if not first.isdigit() or int(first) >= len(inside):
            raise ConfigError(
                f"{key}: there is no item {first!r}; the list has {len(inside)} items, counted from 0",
                code="no_such_item",
                key=key,
            )
        return [_set(item, rest, value, key) if i == int(first) else item for i, item in enumerate(inside)]
    if isinstance(inside, str) and key.startswith("objective."):
        inside = {"name": inside}  # a part given by its bare name
    held = dict(inside) if isinstance(inside, Mapping) else {}
    return {**held, first: _set(held.get(first), rest, value, key)}


def _drop_places(where: dict[str, str], keys: Sequence[str]) -> None:
    """Remove the places of overridden keys and of everything below them."""
    for place in [p for p in where if any(f"{p}.".startswith(f"{key}.") for key in keys)]:
        del where[place]
