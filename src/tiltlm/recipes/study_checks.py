"""What is refused before a study begins: it has no judge, or its folder cannot be used."""

from pathlib import Path
from typing import Any

from tiltlm.core.errors import ConfigError
from tiltlm.runs import check_output
from tiltlm.storage.files import check_writable


def check_call(judge: Any, output: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse a call without a judge, or whose folder cannot be used.

    Raises:
        ConfigError: no judge is named, or as `check_folder`.
    """
    if judge is None:
        raise ConfigError(
            "no judge is named; give --judge, such as reward_model:FOLDER or gold", code="missing_setting", key="judge"
        )
    check_folder(output, resume=resume, overwrite=overwrite)


def check_folder(output: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse a folder that cannot be used.

    Raises:
        ConfigError: both options are given, or the folder is not empty or cannot be written.
    """
    if resume and overwrite:
        raise ConfigError(
            "resume keeps the answers and overwrite draws them again; give one of the two",
            code="conflict",
            key="resume",
        )
    if check_output(output) and not (resume or overwrite):
        raise ConfigError(
            f"{output} is not empty; use the answers there (--resume), draw them again (--overwrite), or choose "
            "another folder",
            code="not_empty",
            key="output",
        )
    try:
        check_writable(output)
    except OSError as error:
        raise ConfigError(
            f"output {output} cannot be written: {error.strerror}", code="not_writable", key="output"
        ) from error
