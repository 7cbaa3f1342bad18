"""YAML in, with the line of every key, so that a message can say where a setting stands."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tiltlm.core import ConfigError


class YamlLoader(yaml.SafeLoader):
    """YAML 1.2 numbers (`5e-7` is a number, not a word), and a repeated key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise ConfigError(
                    f"{key.start_mark.name}:{key.start_mark.line + 1}: {key.value} is set twice",
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
    """A value of the command line as YAML reads it: 0.2 a number, [a, b] a list, true a truth."""
    try:
        return yaml.load(text, YamlLoader)  # a SafeLoader
    except yaml.YAMLError:
        return text


def read_document(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """The mapping a YAML (or JSON) file holds, and the line of each dotted key; an item of a list is its number.

    Raises:
        ConfigError: no such file, no YAML, or not a mapping; the message names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such configuration file", code="no_such_path", key="config") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})", code="not_readable", key="config") from error
    try:
        loader = YamlLoader(text)
        loader.name = str(path)  # what marks, and so messages, call it
        node = loader.get_single_node()
        document = {} if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: not YAML: {error.problem}", code="not_yaml", key="config") from error
    if not isinstance(document, Mapping):
        raise ConfigError(
            f"{path}: holds {type(document).__name__}; a configuration is sections with keys",
            code="wrong_type",
            key="config",
        )
    lines: dict[str, int] = {}
    _note_lines(node, "", lines)
    return dict(document), lines


def _note_lines(node: yaml.Node | None, prefix: str, lines: dict[str, int]) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = f"{prefix}{key.value}"
            lines[name] = key.start_mark.line + 1
            _note_lines(value, f"{name}.", lines)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            lines[f"{prefix}{i}"] = value.start_mark.line + 1
            _note_lines(value, f"{prefix}{i}.", lines)
