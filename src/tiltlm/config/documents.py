"""Read YAML: values, and files with the line of every key, so that a message can name the place of a setting."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tiltlm.core import ConfigError

MAX_BYTES = 1_000_000
"""Most bytes of a configuration file."""
MAX_DEPTH = 50
"""Most levels of nesting."""
MAX_VALUES = 100_000
"""Most values, when each alias (`*name`) is replaced by what it stands for."""


class YamlLoader(yaml.SafeLoader):
    """A loader that reads `5e-7` as a number, as YAML 1.2 does, and refuses a repeated key.

    It also refuses what would fill the memory: deep nesting, and aliases that stand for very many values.
    """

    def __init__(self, stream: str) -> None:
        """Start to read a text."""
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Return the next node; raise ConfigError if it is nested too deeply."""
        if self._depth == MAX_DEPTH:
            self._refuse(
                self.peek_event().start_mark,  # type: ignore[no-untyped-call]
                f"values are nested more than {MAX_DEPTH} levels deep",
            )
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def get_single_node(self) -> yaml.Node | None:
        """Return the node of the whole text; raise ConfigError if aliases stand for too many values."""
        node = super().get_single_node()
        if node is not None:
            self._count(node, {})
        return node

    def _count(self, node: yaml.Node, known: dict[int, int | None]) -> int:
        """Return the number of values of a node, aliases replaced.

        Args:
            node: A node of the text.
            known: The number of each node that was counted, by its identity; None for one that is being counted.
        """
        if id(node) not in known:
            known[id(node)] = None
            inside = node.value if isinstance(node, yaml.CollectionNode) else []
            children = [child for part in inside for child in (part if isinstance(part, tuple) else (part,))]
            known[id(node)] = 1 + sum(self._count(child, known) for child in children)
        count = known[id(node)]
        if count is None:
            self._refuse(node.start_mark, "a value contains itself by an alias")
        elif count > MAX_VALUES:
            self._refuse(node.start_mark, f"with its aliases, this value has more than {MAX_VALUES:,} values")
        return count or 0

    def _refuse(self, mark: yaml.Mark, reason: str) -> None:
        raise ConfigError(
            f"{self.name}:{mark.line + 1}: {reason}. A configuration does not need that; it was made to fill the "
            "memory, or it is another file than you meant",
            code="too_large",
            key="config",
        )

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping of a node; raise ConfigError if a key occurs twice."""
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(
                    f"{key.start_mark.name}:{key.start_mark.line + 1}: a key must be a text, not a list or a mapping",
                    code="not_yaml",
                    key="config",
                )
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
    """Return the value of a text in YAML: `0.2` is a number, `[a, b]` a list, `true` a boolean.

    Raises:
        ConfigError: A key is repeated, or the value would fill the memory.
    """
    loader = YamlLoader(text)
    loader.name = repr(text[:40])
    try:
        return loader.get_single_data()
    except ConfigError:
        raise
    except (yaml.YAMLError, ValueError):  # ValueError: a date such as 2024-13-01
        return text


def read_document(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the mapping in a YAML (or JSON) file, and the line of each dotted key; list items are numbered from 0.

    Raises:
        ConfigError: The file does not exist, is too large or not YAML, or is not a mapping; the message names the line.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)  # a device may have no end
        if len(content) > MAX_BYTES:
            raise ConfigError(
                f"{path}: the file has more than {MAX_BYTES:,} bytes, so it is no configuration",
                code="too_large",
                key="config",
            )
        text = content.decode("utf-8")
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
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: this is not YAML: {error}", code="not_yaml", key="config") from error
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
