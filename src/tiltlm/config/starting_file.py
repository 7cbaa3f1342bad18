"""The file that `tiltlm init` writes: every setting with its meaning, the necessary ones set, defaults as comments."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from tiltlm.config.documents import parse_value, read_document
from tiltlm.config.listing import OF_OTHER_COMMANDS, Setting, all_settings, in_yaml, sections
from tiltlm.config.resolve import resolve
from tiltlm.config.schema import Schema
from tiltlm.config.translate import Translation, head_of, translate
from tiltlm.core import ConfigError, RunError
from tiltlm.core.checks import prefix_errors
from tiltlm.objectives import knobs, resolve_name, spell_out
from tiltlm.recipes.methods import knob_text
from tiltlm.recipes.run_settings import RunSettings
from tiltlm.storage.files import write_text

WIDTH = 100
PLACEHOLDERS = {
    "model": {"path": "MODEL"},
    "data": {"train": "DATA"},
    "objective": {"name": "dpo"},
    "output": "runs/first",
}
"""What stands in the file for a necessary section that nothing is known of."""


def new_file(file: Path | None, source: Path | None, **sections: str | None) -> tuple[str, list[str]]:
    """Write the file of `tiltlm init`, or only return its text.

    Args:
        file: The file to write; None: none.
        source: A configuration of TRL or axolotl to translate; None: none.
        **sections: Model, data, objective and output, where they are given; they win over `source`.

    Returns:
        The text, and what to tell about the translation.

    Raises:
        ConfigError: The file exists or cannot be written, `source` cannot be translated, or a setting is impossible.
    """
    if file is not None and file.exists():
        raise ConfigError(f"{file} exists; choose another name, or delete it", code="not_empty", key="file")
    made, lines = Translation(), list[str]()
    if source is not None:
        document, _ = read_document(source)
        with prefix_errors(str(source)):
            made = translate(document, sections.pop("objective"))
        lines = list(head_of(str(source), made))
    for name, value in sections.items():
        if value is not None:
            main = Schema(RunSettings).main_key(name)
            made.set(name if main is None else f"{name}.{main}", parse_value(value))
    text = starting_file(made.tree, made.remarks, lines)
    if file is not None:
        try:
            write_text(file, text)
        except (OSError, RunError) as error:
            raise ConfigError(f"{file} could not be written: {error}", code="not_writable", key="file") from error
    return text, lines[1:]


def starting_file(tree: Mapping[str, Any], remarks: Mapping[str, str] | None = None, head: Sequence[str] = ()) -> str:
    """Return a commented configuration file.

    Args:
        tree: The settings that are set, by section; missing necessary ones become placeholders.
        remarks: Full key → what to say behind its value.
        head: Lines to write above the settings, as comments.

    Raises:
        ConfigError: A setting is unknown or impossible.
    """
    whole = {**PLACEHOLDERS, **tree}
    try:
        resolve(RunSettings, whole)
    except ConfigError as error:
        if error.code != "missing_setting":  # of the objective: the file says that it is necessary
            raise
    says = {f"{name}.{key}": "necessary" for name, keys in PLACEHOLDERS.items() if name not in tree for key in keys}
    says = {key: text for key, text in says.items() if key in ("model.path", "data.train")} | dict(remarks or {})
    lines = ["# tiltlm train THIS_FILE", "# Every setting of a run. Those behind a # have their default."]
    lines += [line for text in head for line in _comment(text, "")]
    for name, meaning in sections().items():
        if name in OF_OTHER_COMMANDS:
            continue
        lines.append("")
        lines += _comment(meaning, "")
        lines += _section(name, whole.get(name), says)
    return "\n".join(lines) + "\n"


def _section(name: str, given: Any, remarks: Mapping[str, str]) -> list[str]:
    """Return the lines of a section."""
    if name == "objective":
        return _objective(given, remarks)
    own = [setting for setting in all_settings() if setting.section == name]
    if [setting.key for setting in own] == [name]:
        return [f"{name}: {in_yaml(given)}"]
    lines, values = [f"{name}:"], dict(given or {})
    for setting in own:
        key = setting.key.removeprefix(f"{name}.")
        if "." not in key:
            inner = [s for s in own if s.key.startswith(f"{setting.key}.")]
            lines += _setting(key, setting, inner, values, remarks)
    return lines


def _setting(
    key: str, setting: Setting, inner: Sequence[Setting], values: Mapping[str, Any], remarks: Mapping[str, str]
) -> list[str]:
    """Return the comment and the line of one setting; of a mapping also what is inside."""
    lines = _comment(setting.meaning, "  ")
    names = {s.key.removeprefix(f"{setting.key}."): s for s in inner}
    for name, s in names.items():
        lines += _comment(f"{name}: {s.meaning}", "    ")
    if inner and key not in values:
        setting = replace(setting, default={name: s.default for name, s in names.items()})  # how to switch it on
    is_set = key in values
    value = in_yaml(values[key] if is_set else setting.default)
    remark = f"  # {remarks[setting.key]}" if setting.key in remarks else ""
    return [*lines, f"  {'' if is_set else '#'}{key}: {value}{remark}"]


def _objective(spec: Any, remarks: Mapping[str, str]) -> list[str]:
    """Return the lines of the objective: its method, its knobs; or parts or a sum as they are."""
    if "name" not in spec:
        return ["objective:", *textwrap.indent(yaml.safe_dump(dict(spec), sort_keys=False), "  ").splitlines()]
    method = resolve_name(spec["name"]).name
    try:
        whole = spell_out(spec)
    except ConfigError:  # a knob without default is not set
        whole = {}
    lines = ["objective:", f"  name: {spec['name']}  # `tiltlm objectives {method}` describes it"]
    for knob in knobs(method):
        key = f"objective.{knob.name}"
        text = remarks.get(key, knob_text(knob))
        if knob.name in spec:
            lines.append(f"  {knob.name}: {in_yaml(spec[knob.name])}  # {text}")
        elif knob.is_required:
            lines.append(f"  {knob.name}:  # necessary: {method} has no default")
        else:
            lines.append(f"  #{knob.name}: {in_yaml(whole.get(knob.name, knob.default))}  # {text}")
    return lines


def _comment(text: str, indent: str) -> list[str]:
    """Return a text as comment lines."""
    before = f"{indent}# "
    return textwrap.wrap(
        text, WIDTH, initial_indent=before, subsequent_indent=before, break_long_words=False, break_on_hyphens=False
    )
