"""Merge defaults, a YAML file and overrides into the settings of a command; later ones win."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from tiltlm.config.command import OPTIONS
from tiltlm.config.documents import read_document
from tiltlm.config.in_memory import plain
from tiltlm.config.schema import Schema, Text
from tiltlm.core import ConfigError

S = TypeVar("S")
Config = str | Path | Mapping[str, Any] | None
"""A YAML file, its content as a mapping, or nothing."""


@dataclass(frozen=True)
class Draft(Generic[S]):
    """The settings of a command while its objective is as it was written: checking that one imports torch."""

    settings: S
    """All sections but the objective are checked."""
    schema: Schema[S]
    where: dict[str, str]
    """Place of each dotted key that comes from a file."""
    objectives: Sequence[str]
    """Sections that are given and describe an objective."""
    pending: Mapping[str, Any]
    """Overrides by bare keys that no section has: knobs of the objective, or mistakes."""
    reads: Sequence[str] | None

    def complete(self) -> S:
        """Return the settings with the objective checked and spelled out.

        Raises:
            ConfigError: As for `resolve`.
        """
        tree = {section: getattr(self.settings, section) for section in self.objectives}
        method = _method(tree)
        for key, value in self.pending.items():
            full = self.schema.knob_of(key, method)
            _refuse_unread(self.schema, {full: value}, self.reads)
            section, *path = full.split(".")
            tree[section] = _set(tree[section], path, value, full)
            _drop_places(self.where, [full])
        made = {section: self.schema.make(section, value, self.where) for section, value in tree.items()}
        return replace(self.settings, **made)  # type: ignore[type-var]


def resolve(
    kind: type[S],
    config: Config = None,
    defaults: Mapping[str, Any] = MappingProxyType({}),
    reads: Sequence[str] | None = None,
    /,
    **overrides: Any,
) -> S:
    """Return the settings of a command: `draft`, completed at once.

    Raises:
        ConfigError: A key is unknown or missing, an override has no effect, or a value is impossible; the message names
            the place.
    """
    return draft(kind, config, defaults, reads, **overrides).complete()


def draft(
    kind: type[S],
    config: Config = None,
    defaults: Mapping[str, Any] = MappingProxyType({}),
    reads: Sequence[str] | None = None,
    /,
    **overrides: Any,
) -> Draft[S]:
    """Return the settings of a command, all but the objective.

    Args:
        kind: The settings dataclass.
        config: A YAML file, or its content.
        defaults: Sections that the command itself sets; file and overrides win over them.
        reads: Sections and dotted keys that the command reads; None: all. Overrides of others are refused. A file may
            have others: commands share it.
        **overrides: Sections, dotted keys, or bare keys that only one section has; they win over `config`.

    Raises:
        ConfigError: As for `resolve`.
    """
    schema = Schema(kind)
    given = {key: plain(schema.read_text(key, v) if isinstance(v, Text) else v, key) for key, v in overrides.items()}
    named = {full: value for key, value in given.items() if (full := schema.home_of(key)) is not None}
    pending = {key: value for key, value in given.items() if schema.home_of(key) is None}
    tree, where = gather(schema, config, defaults, named)
    _refuse_unread(schema, named, reads)
    for section in schema.required:
        if section not in tree:
            option = f"give --{section}, " if section in OPTIONS else ""
            raise ConfigError(
                f"{section} is missing; {option}set {section}=..., or add it to the configuration file",
                code="missing_setting",
                key=section,
            )
    objectives = [section for section in tree if schema.is_objective(section)]
    made = {
        section: value if section in objectives else schema.make(section, value, where)
        for section, value in tree.items()
    }
    return Draft(kind(**made), schema, where, objectives, pending, reads)


def gather(
    schema: Schema[Any], config: Config, defaults: Mapping[str, Any], overrides: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the merged sections, and the place of each dotted key that comes from a file.

    Args:
        schema: What the settings may contain.
        config: A YAML file, or its content.
        defaults: Sections that the command itself sets.
        overrides: Plain values of sections and dotted keys.
    """
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
    for full, value in overrides.items():
        if full not in schema.sections:
            section, *path = full.split(".")
            if section not in schema.sections:
                raise _no_section(schema, section, full)
            tree[section] = _set(tree.get(section), path, value, full)
            _drop_places(where, [full])
    return tree, where


def _refuse_unread(schema: Schema[Any], overrides: Mapping[str, Any], reads: Sequence[str] | None) -> None:
    """Refuse an override, by its section or dotted key, of a setting that the command does not read."""
    if reads is None:
        return
    for key, given in overrides.items():
        value = schema.expand(key, given) if key in schema.sections else given
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


def combinations(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return every combination of the grid's values; the last key varies fastest."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


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


def points_of(
    schema: Schema[Any],
    grid: Sequence[str] | Mapping[str, Sequence[Any]],
    points: str | Path | Mapping[str, Mapping[str, Any]] | None,
    settings: Mapping[str, Any],
    *,
    allows_one: bool = False,
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return each run of a sweep: the values of the keys that vary, and all overrides.

    Raises:
        ConfigError: Nothing varies and `allows_one` is off, or a key is given twice.
    """
    given = grid if isinstance(grid, Mapping) else parse_grid(schema, grid)
    values = {key: [plain(value, key) for value in listed] for key, listed in given.items()}
    bundles = {name: plain(bundle) for name, bundle in read_points(points).items()}
    refuse_given_twice(schema, values, settings, *bundles.values())
    fixed = {**settings, **{key: vs[0] for key, vs in values.items() if len(vs) == 1}}
    varied = {key: list(vs) for key, vs in values.items() if len(vs) > 1}
    if not (allows_one or varied) and len(bundles) < 2:
        raise ConfigError(
            "nothing varies; give several values to a key, such as objective.beta=0.05,0.1,0.5, or several points",
            code="nothing_varies",
            key="grid",
        )
    return [
        ({**({"point": name} if name else {}), **chosen}, {**fixed, **bundle, **chosen})
        for name, bundle in bundles.items()
        for chosen in combinations(varied)
    ]


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
