"""All settings with types, defaults and meaning, read from the settings dataclasses and their docstrings.

`tiltlm settings`, docs/settings.md and the file that `tiltlm init` writes show this one list.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from tiltlm.core import ConfigError
from tiltlm.judging.judge_settings import JudgeSettings
from tiltlm.objectives import Spec
from tiltlm.online.examples.corrections import CorrectionSettings
from tiltlm.online.examples.rules import ExampleSettings
from tiltlm.online.examples.shaping import ShapingSettings
from tiltlm.online.loop_settings import (
    CriticSettings,
    LearnedJudgeSettings,
    LoopSettings,
    RivalSettings,
    StopSettings,
)
from tiltlm.recipes.run_settings import RunSettings
from tiltlm.sampling import SamplingSettings

FURTHER: Mapping[str, type] = {
    "sampling": SamplingSettings,
    "judge": JudgeSettings,
    "loop": LoopSettings,
    "rivals": RivalSettings,
    "examples": ExampleSettings,
    "shaping": ShapingSettings,
    "correction": CorrectionSettings,
    "critic": CriticSettings,
    "learned_judge": LearnedJudgeSettings,
    "stop": StopSettings,
}
"""Sections that `tiltlm train` does not have, and their dataclasses."""
REQUIRED = "required"
"""What is shown for a default where there is none."""
NAMES = {bool: "true or false", int: "whole number", float: "number", str: "text", Path: "path", NoneType: "null"}
IN_YAML = {"None": "null", "True": "true", "False": "false"}
WIDTH = 100
"""Characters of a line in a terminal."""


@dataclass(frozen=True)
class Setting:
    """One setting."""

    key: str
    """Its full name, such as `training.batch_size`."""
    type: str
    """Its type in words: `whole number or null`."""
    default: Any
    """The default as a plain value; `required` if there is none."""
    meaning: str
    """Its docstring, in one line, with values as YAML writes them."""

    @property
    def section(self) -> str:
        """The part of the key before the first dot."""
        return self.key.partition(".")[0]

    @property
    def is_required(self) -> bool:
        """True if there is no default."""
        return bool(self.default == REQUIRED)

    @property
    def shown_default(self) -> str:
        """The default as YAML writes it."""
        return REQUIRED if self.is_required else in_yaml(self.default)


@cache
def all_settings() -> tuple[Setting, ...]:
    """Return every setting of a run, in the order of their dataclasses."""
    return tuple(_settings_of(RunSettings, ""))


@cache
def sections() -> dict[str, str]:
    """Return the meaning of each section: the docstring of its dataclass, or of its field."""
    hints, meanings = get_type_hints(RunSettings), field_docstrings(RunSettings)
    return {
        name: _one_line(inspect.getdoc(kind) or "") if is_dataclass(kind) else _one_line(meanings[name])
        for name, kind in hints.items()
    }


@cache
def further_settings() -> tuple[Setting, ...]:
    """Return every setting of the sections that a run does not have."""
    return tuple(setting for section, kind in FURTHER.items() for setting in _settings_of(kind, f"{section}."))


@cache
def further_sections() -> dict[str, str]:
    """Return the meaning of each section that a run does not have."""
    return {section: _one_line(inspect.getdoc(kind) or "") for section, kind in FURTHER.items()}


def find_settings(name: str | None) -> list[Setting]:
    """Return the settings of a section or a key; None: all settings of a run.

    Raises:
        ConfigError: There is no such section or key.
    """
    if name is None:
        return list(all_settings())
    every = [*all_settings(), *further_settings()]
    found = [s for s in every if f"{s.key}.".startswith(f"{name}.") or s.key.partition(".")[2] == name]
    if not found:
        known = [*sections(), *further_sections(), *(s.key for s in every)]
        near = get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise ConfigError(
            f"there is no section or setting {name!r}{hint} Sections: {', '.join((*sections(), *further_sections()))}",
            code="unknown_name",
            key=name,
        )
    return found


def describe_settings(name: str | None = None) -> str:
    """Return the settings as text for a terminal.

    Args:
        name: A section (`training`) or a setting (`training.batch_size`, `batch_size`); None: all.
    """
    found, lines = find_settings(name), list[str]()
    for section, meaning in {**sections(), **further_sections()}.items():
        own = [setting for setting in found if setting.section == section]
        if own:
            lines += ["", *textwrap.wrap(f"{section}: {meaning}", WIDTH, subsequent_indent="  ")]
        for setting in own:
            lines += ["", f"  {setting.key}   {setting.type}, {_default_text(setting)}"]
            lines += textwrap.wrap(setting.meaning, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
        if own and section == "objective":
            lines += ["", "  All other keys of an objective depend on its method: `tiltlm objectives NAME` lists them."]
    return "\n".join(lines[1:])


def as_plain(settings: Sequence[Setting]) -> list[dict[str, Any]]:
    """Return settings as plain values for JSON; a required one has no `default`."""
    return [
        {"key": s.key, "type": s.type, "required": s.is_required, "meaning": s.meaning}
        | ({} if s.is_required else {"default": s.default})
        for s in settings
    ]


def field_docstrings(kind: type) -> dict[str, str]:
    """Return the docstring beneath each field of a dataclass."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, text in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            found[field.target.id] = inspect.cleandoc(str(text.value.value))
    return found


def in_yaml(value: Any) -> str:
    """Return a plain value as YAML writes it in one line."""
    if isinstance(value, float) and value == int(value) and abs(value) < 1e6:
        return f"{value:.1f}"
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _settings_of(kind: Any, prefix: str) -> Iterator[Setting]:
    """Yield the settings of a dataclass; a nested dataclass gives one setting for itself and those inside."""
    hints, meanings = get_type_hints(kind), field_docstrings(kind)
    for field in fields(kind):
        key, hint = f"{prefix}{field.name}", hints[field.name]
        inner = next((k for k in (hint, *get_args(hint)) if is_dataclass(k)), None)
        if hint == Spec and not prefix:
            yield Setting(f"{key}.name", "text", REQUIRED, _one_line(meanings[field.name]))
        elif inner is hint:
            yield from _settings_of(inner, f"{key}.")
        else:
            yield Setting(key, _type_text(hint), _default_of(field), _one_line(meanings[field.name]))
            if inner is not None:
                yield from _settings_of(inner, f"{key}.")


def _default_of(field: Any) -> Any:
    if field.default is not MISSING:
        default = field.default
    elif field.default_factory is not MISSING:
        default = field.default_factory()
    else:
        return REQUIRED
    return list(default) if isinstance(default, tuple) else default


def _type_text(hint: Any) -> str:
    """Return a type in words."""
    if hint in NAMES:
        return NAMES[hint]
    kinds, origin = get_args(hint), get_origin(hint)
    if origin is Literal:
        return " or ".join(map(str, kinds))
    if origin is tuple:
        return f"list of {' or '.join(f'{_type_text(kind)}s' for kind in get_args(kinds[0]) or kinds[:1])}"
    if is_dataclass(hint) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return "mapping"
    return " or ".join(map(_type_text, kinds))


def _one_line(text: str) -> str:
    """Return a docstring in one line, with values as YAML writes them."""
    line = re.sub(r"\s+", " ", text).strip()
    return re.sub(r"\b(None|True|False)\b", lambda word: IN_YAML[word[0]], line)


def _default_text(setting: Setting) -> str:
    return "required" if setting.is_required else f"default {setting.shown_default}"
