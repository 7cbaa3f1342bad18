"""Defaults < file < command line: from a YAML file and overrides to the settings of a run, and back to YAML."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from tiltlm.config.documents import parse_value, read_document
from tiltlm.config.schema import SECTIONS, SHORTHAND, make_section, qualify
from tiltlm.core import ConfigError
from tiltlm.recipes.run_settings import RunSettings
from tiltlm.report import to_plain


def gather(
    config: str | Path | Mapping[str, Any] | None, overrides: Mapping[str, Any], defaults: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The merged tree of sections and where each dotted key was said.

    Args:
        config: a YAML file, or its content, or nothing.
        overrides: dotted keys (or bare ones, see `qualify`) that go before the file.
        defaults: sections that stand where nothing else is said.
    """
    overrides = {key: _texts(value) for key, value in overrides.items()}
    tree: dict[str, Any] = {}
    where: dict[str, str] = {}
    if isinstance(config, Mapping):
        tree = {key: _texts(value) for key, value in config.items()}
    elif config is not None:
        tree, lines = read_document(Path(config))
        where = {key: f"{config}:{line}" for key, line in lines.items()}
    for key in tree:
        if key not in SECTIONS:
            raise ConfigError(
                f"{where.get(key, key)}: no section {key!r}; known: {', '.join(SECTIONS)}",
                code="unknown_setting",
                key=key,
            )
    tree = {k: _open(k, v) for k, v in {**defaults, **tree}.items() if v is not None}
    for section in (k for k in overrides if k in SECTIONS):  # an objective's name first: its knobs hang on it
        opened = _open(section, overrides[section])
        known = tree.get(section)
        if not isinstance(opened, dict) or not isinstance(known, dict) or _is_another(section, known, opened):
            tree[section] = opened
            _forget(where, [section])
        else:
            tree[section] = {**known, **opened}
            _forget(where, [f"{section}.{key}" for key in opened])
    for key, value in overrides.items():
        if key not in SECTIONS:
            full = qualify(key, _name(tree))
            _put(tree, full, value)
            _forget(where, [full])
    return tree, where


def resolve(
    config: str | Path | Mapping[str, Any] | None = None,
    /,
    defaults: Mapping[str, Any] = MappingProxyType({}),
    **overrides: Any,
) -> RunSettings:
    """The settings of a run.

    Args:
        config: a YAML file, or its content.
        defaults: sections that a command fills in itself where nothing else is said.
        overrides: what goes before `config`.

    Raises:
        ConfigError: an unknown or missing key, or a value that cannot be; the message says where it stands.
    """
    tree, where = gather(config, overrides, defaults)
    needed = [f.name for f in fields(RunSettings) if f.default is f.default_factory is MISSING]
    for section in needed:
        if section not in tree:
            raise ConfigError(
                f"{section} is missing: give --{section}, or a configuration file with a {section} section",
                code="missing_setting",
                key=section,
            )
    return RunSettings(**{section: make_section(section, value, where) for section, value in tree.items()})


def parse_overrides(pairs: Sequence[str]) -> dict[str, Any]:
    """`key=value` arguments as a mapping; values are read as YAML."""
    overrides = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ConfigError(
                f"{pair!r}: a setting is written key=value, such as objective.beta=0.2", code="not_key_value"
            )
        overrides[key.strip()] = parse_value(value)
    return overrides


def to_yaml(settings: RunSettings) -> str:
    """The settings as a configuration file."""
    return yaml.safe_dump(to_plain(settings), sort_keys=False, allow_unicode=True)


def _open(section: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return {SHORTHAND[section]: value} if section in SHORTHAND else value


def _texts(value: Any) -> Any:
    """The same with paths as text, as a file would have them."""
    if isinstance(value, Mapping):
        return {key: _texts(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_texts(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _name(tree: Mapping[str, Any]) -> str | None:
    objective = tree.get("objective")
    return objective.get("name") if isinstance(objective, Mapping) else None


def _is_another(section: str, known: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    """Whether what is given is no change of the known objective but another one: then nothing of it is kept."""
    if section != "objective":
        return False
    is_renamed = any(key in given and given[key] != known.get(key) for key in ("name", "sum"))
    return is_renamed or ("reward" in given and "reward" not in known)


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    section, *path = key.split(".")
    if section not in SECTIONS:
        raise ConfigError(
            f"{key}: no section {section!r}; known: {', '.join(SECTIONS)}", code="unknown_setting", key=key
        )
    tree[section] = _with(tree.get(section), path, value, key)


def _with(inside: Any, path: Sequence[str], value: Any, key: str) -> Any:
    """A copy of `inside` with a value at a path through mappings and lists, which is called `key`."""
    if not path:
        return value
    first, *rest = path
    if isinstance(inside, list):
        if not first.isdigit() or int(first) >= len(inside):
            raise ConfigError(
                f"{key}: {first!r} is none of the {len(inside)} items there; they are counted from 0",
                code="no_such_item",
                key=key,
            )
        return [_with(item, rest, value, key) if i == int(first) else item for i, item in enumerate(inside)]
    if isinstance(inside, str) and key.startswith("objective."):
        inside = {"name": inside}  # a part that is only named, as yet
    held = dict(inside) if isinstance(inside, Mapping) else {}
    return {**held, first: _with(held.get(first), rest, value, key)}


def _forget(where: dict[str, str], keys: Sequence[str]) -> None:
    """What the file says of these keys no longer stands."""
    for said in [s for s in where if any(f"{s}.".startswith(f"{key}.") for key in keys)]:
        del where[said]
