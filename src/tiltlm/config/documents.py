"""Read YAML: values, and files with the line of every key, so that a message can name the place of a setting."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tiltlm.core import ConfigError


class YamlLoader(yaml.SafeLoader):
    """A loader that reads `5e-7` as a number, as YAML 1.2 does, and refuses a repeated key."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping of a node; raise ConfigError if a key occurs twice."""
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise ConfigError(
                    f"{key.start_mark.name}:{key.start_mark.line + 1}: {key.value} is set twice; remove one of the two",
                    code="duplicate",
                    key=key.value,
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)|\.?[0-9]+\.?[0-9]*[eE][-+]?[0-9]+)$"),
    list("-+0123456789."),
)


def parse_value(text: str) -> Any:
    """Return the value of a text in YAML: `0.2` is a number, `[a, b]` a list, `true` a boolean."""
    try:
        return yaml.load(text, YamlLoader)  # a SafeLoader
    except (yaml.YAMLError, ValueError):  # ValueError: a date such as 2024-13-01
        return text


def read_document(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the mapping in a YAML (or JSON) file, and the line of each dotted key; list items are numbered from 0.

    Raises:
        ConfigError: The file does not exist, is not YAML, or is not a mapping; the message names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: this configuration file does not exist", code="no_such_path", key="config"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})", code="not_readable", key="config") from error
    try:
        loader = YamlLoader(text)
        loader.name = str(path)  # messages show this name
        node = loader.get_single_node()
        document = {} if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: this is not YAML: {error.problem}", code="not_yaml", key="config") from error
    if not isinstance(document, Mapping):
        raise ConfigError(
            f"{path}: the file holds a {type(document).__name__}; a configuration is a mapping of sections",
            code="wrong_type",
            key="config",
        )
    lines: dict[str, int] = {}
    _add_lines(node, "", lines)
    return dict(document), lines


def _add_lines(node: yaml.Node | None, prefix: str, lines: dict[str, int]) -> None:
    """Add the line of every key below `node` to `lines`."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = f"{prefix}{key.value}"
            lines[name] = key.start_mark.line + 1
            _add_lines(value, f"{name}.", lines)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            lines[f"{prefix}{i}"] = value.start_mark.line + 1
            _add_lines(value, f"{prefix}{i}.", lines)
