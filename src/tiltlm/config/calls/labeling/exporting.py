"""The call that exports labels of people. What is heavy is imported inside the function."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tiltlm.config.calls.labeling.serving import split_names
from tiltlm.config.command import command

if TYPE_CHECKING:
    from tiltlm.recipes.labeling.exporting import Exported

__all__ = ["label_export"]


@command(group="label", positionals={"output": "OUT"})
def label_export(
    output: str | Path,
    /,
    *,
    database: str = "label.db",
    rule: str = "soft",
    ties: str = "keep",
    min_votes: int = 1,
    prior: float = 0.5,
    votes: bool = False,
    exclude_annotators: str | Sequence[str] | None = None,
    pseudonyms: bool = False,
    overwrite: bool = False,
) -> "Exported":
    """Write the labels of a project for training, or its votes.

    Each pair gets one label, and training reads the file as it is; `tiltlm train --data label.db` makes the same labels
    without a file. Pairs that were adjudicated have the adjudicator's label. Gold, calibration and repeats make no
    labels. A file beside it, OUT.account.json, says how they were made.

    Args:
        output: File to write: .jsonl, .json, .csv, .tsv (also .gz, .zst), .parquet or .arrow; or a new folder.
        database: The labelling project: a file, or postgresql://USER@HOST/NAME.
        rule: Rule of the labels: soft (share of votes), majority, or dawid_skene (weighs annotators by reliability).
        ties: What becomes of pairs without a preferred answer: keep writes them with preference 0.5, drop leaves them
            out.
        min_votes: Leave out pairs with fewer votes, unless they were adjudicated.
        prior: Laplace's prior of dawid_skene: votes that each entry of its tables has before the data.
        votes: Write one row for each vote in place of labels, as `tiltlm agreement` reads them.
        exclude_annotators: Leave out the votes of these annotators: names with commas between.
        pseudonyms: Write pseudonyms in place of the names of people.
        overwrite: Replace the file.

    Returns:
        The `path` of the file, and its `account`.

    Raises:
        TiltError: Something is wrong; the message says what to change. Nothing is written then.
    """
    from tiltlm.recipes.labeling.extra import require_label

    require_label()
    from tiltlm.data.labels import LabelSettings
    from tiltlm.labeling.exports import Selected
    from tiltlm.recipes.labeling.exporting import export

    selected = Selected(
        rule=LabelSettings(rule=rule, ties=ties, min_votes=min_votes, prior=prior),
        exclude=split_names(exclude_annotators),
        pseudonyms=pseudonyms,
        votes=votes,
    )
    return export(database, Path(output), selected, overwrite=overwrite)
