"""The call that divides data into parts for training, validation and test."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiltlm.config.command import command
from tiltlm.recipes.progress import ProgressCallback, display

if TYPE_CHECKING:
    from tiltlm.config.resolve import Config
    from tiltlm.recipes.data.split import SplitData

__all__ = ["split"]


@command(argument="data")
def split(
    config: "Config" = None,
    /,
    *,
    output: str | Path | None = None,
    eval: float = 0.1,
    test: float = 0.0,
    seed: int = 0,
    similarity: float = 0.8,
    stratify: str | None = None,
    against: str | Path | Sequence[str | Path] | None = None,
    drop_contaminated: bool = False,
    overwrite: bool = False,
    progress: ProgressCallback | bool | None = True,
    **settings: Any,
) -> "SplitData":
    """Divide data by prompt into files for training and tests.

    Rows of one prompt, and of nearly equal prompts, are in the same file. A hash of the prompt decides, so added rows
    change the part of no other prompt, unless they connect or join near duplicates.

    Args:
        config: A YAML file, or its content.
        output: Folder to make: train, validation and test files in the format of the data, and split.json.
        eval: Share of the prompts for the file validation, which measures a training run (data.eval).
        test: Share of the prompts for the file test, for a last measurement.
        seed: Another seed divides the prompts in another way.
        similarity: Prompts whose runs of 5 words agree to this share or more stay together. 1: only equal prompts.
        stratify: Column, such as source. Each of its values is divided in the given shares. Then added rows can
            move prompts of their own value that are at the border of two parts.
        against: Evaluation files, separated by commas. Training rows that overlap with their prompts are reported.
        drop_contaminated: Leave out the training rows that overlap.
        overwrite: Replace the split in the output folder.
        progress: True shows it: as a bar, in a notebook as a line. False: nothing is shown. A function is called with
            label, units done, units in all, and figures to show.
        **settings: Overrides of `config`: the section data. The data must be given in one of the two.

    Returns:
        The split: `account`, the content of split.json, and `path` of the folder.

    Raises:
        TiltError: Something is wrong; the message says what to change. Nothing is written then.
    """
    from tiltlm.config.resolve import resolve
    from tiltlm.core import ConfigError
    from tiltlm.data.splits.plan import SplitRule
    from tiltlm.recipes.data.split import SPLIT_READS, SplitRequest, SplitSettings
    from tiltlm.recipes.data.split import split as recipe

    if output is None:
        raise ConfigError(
            "output is missing; name a new folder for the files: --output FOLDER", code="missing_setting", key="output"
        )
    files = against.split(",") if isinstance(against, str) else [against] if isinstance(against, Path) else against
    request = SplitRequest(
        output=Path(output),
        rule=SplitRule(eval, test, seed, similarity, by_stratum=stratify is not None),
        stratify=stratify,
        against=tuple(str(file).strip() for file in files or ()),
        drop_contaminated=drop_contaminated,
        overwrite=overwrite,
    )
    resolved = resolve(SplitSettings, config, {}, SPLIT_READS, **settings)
    with display(progress) as draw:
        return recipe(resolved, request, progress=draw)
