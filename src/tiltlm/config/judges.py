"""A judge as the user names it, on any command: a short form, a YAML file, a mapping."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tiltlm.config.documents import parse_value, read_document
from tiltlm.core import ConfigError
from tiltlm.judging import JudgeSettings

ENDINGS = (".yaml", ".yml", ".json")


def judge_section(judge: Any) -> dict[str, Any]:
    """Return a judge as a section of settings.

    Args:
        judge: `KIND:ARGUMENT`, a YAML file with settings (at its top, or below `judge:`), a mapping, also as text
            (`{kind: pairwise, model: M}`), or settings.

    Raises:
        ConfigError: The file or the text cannot be read.
    """
    if isinstance(judge, JudgeSettings):
        return judge.given
    if isinstance(judge, Mapping):
        return dict(judge)
    text = str(judge)
    if text.startswith("{"):
        return _mapping(text)
    if text.endswith(ENDINGS):
        content = read_document(Path(text))[0]
        inner = content.get("judge", content)
        return dict(inner) if isinstance(inner, Mapping) else {"kind": inner}
    return {"kind": text}


def _mapping(text: str) -> dict[str, Any]:
    """Return the settings that a text in braces holds."""
    value = parse_value(text)
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"judge {text!r} is no mapping; write it as {{kind: pairwise, model: M}}", code="wrong_type", key="judge"
        )
    return dict(value)


def read_judge(judge: Any) -> JudgeSettings:
    """Return the settings of a judge, in any form that `judge_section` takes.

    Raises:
        ConfigError: The kind is unknown, or a setting is wrong or has no effect.
    """
    return JudgeSettings.of(judge_section(judge))
