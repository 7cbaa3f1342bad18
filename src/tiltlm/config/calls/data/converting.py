"""The call that converts data between the formats of tools. What is heavy is imported inside the function."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiltlm.config.command import command
from tiltlm.recipes.progress import ProgressCallback, display, quiet_libraries

if TYPE_CHECKING:
    from tiltlm.recipes.data.converted import Converted

__all__ = ["convert"]


@command(positionals={"source": "IN", "output": "OUT"})
def convert(
    source: str | Path,
    output: str | Path,
    *,
    to: str,
    from_: str | None = None,
    map: str | Mapping[str, str] | None = None,
    lossy: bool = False,
    overwrite: bool = False,
    progress: ProgressCallback | bool | None = True,
    **settings: Any,
) -> "Converted":
    """Write data in the format of another tool.

    The format of the input is recognised and printed. The ending of OUT decides the kind of file: .jsonl, .json, .csv
    and .tsv (also .gz and .zst), .parquet, .arrow; without an ending, OUT is a folder of Hugging Face datasets. Where
    something would be lost, nothing is written without --lossy, and the message lists what.

    Args:
        source: Data to read: a file, a folder, or a name on the Hugging Face Hub.
        output: File or folder to write.
        to: Format to write, such as trl, hh-messages, sharegpt, openai or tiltlm; an unknown name lists all.
        from_: Format of the input, if it should not be recognised by its columns.
        map: Columns of other names, ROLE=COLUMN with commas between: prompt=question,chosen=better.
        lossy: Write although something is lost.
        overwrite: Replace the output.
        progress: True shows it: as a bar, in a notebook as a line. False: nothing is shown. A function is called with
            label, units done, units in all, and figures to show.
        **settings: Settings of the section data: split, subset, revision, limit, columns, ignore.

    Returns:
        What was read, written and lost: `losses`, `num_written`, and `path`.

    Raises:
        TiltError: Something is wrong; the message says what to change. Nothing is written then.
    """
    from tiltlm.config.resolve import resolve
    from tiltlm.recipes.data.convert import CONVERT_READS, ConvertRequest, ConvertSettings
    from tiltlm.recipes.data.convert import convert as recipe

    request = ConvertRequest(Path(output), to, form=from_, lossy=lossy, overwrite=overwrite)
    columns = {f"data.columns.{role}": column for role, column in _columns(map).items()}
    given = {"data": str(source), **columns, **settings}
    resolved = resolve(ConvertSettings, None, {}, CONVERT_READS, **given)
    with display(progress) as draw, quiet_libraries():
        return recipe(resolved, request, progress=draw)


def _columns(given: str | Mapping[str, str] | None) -> dict[str, str]:
    """Return role → column of `ROLE=COLUMN,ROLE=COLUMN`."""
    from tiltlm.core import ConfigError

    if given is None or isinstance(given, Mapping):
        return dict(given or {})
    pairs = [part.partition("=") for part in given.split(",")]
    for role, equals, column in pairs:
        if not (role.strip() and equals and column):
            raise ConfigError(
                f"--map {given}: write ROLE=COLUMN with commas between, such as prompt=question,chosen=better",
                code="not_key_value",
                key="--map",
            )
    return {role.strip(): column for role, _, column in pairs}
