"""The agreement recipe: how far annotators agree, and one label per item from their votes.

The labels are pairs that training reads. A file beside them says how they were made: `labels.account.json` holds the
rule with its parameters, counts, and what Dawid and Skene's model found about each annotator.
"""

from dataclasses import dataclass, field
from pathlib import Path

from tiltlm.core import ConfigError, DataError
from tiltlm.data import DataSettings
from tiltlm.data.data_settings import FILE_KEYS
from tiltlm.data.files.writing import check_ending, write_rows
from tiltlm.data.labels import LabelSettings, Votes, make_labels, measure_agreement
from tiltlm.data.labels.account import account_of
from tiltlm.data.labels.dawid_skene import uncertainty
from tiltlm.data.labels.label_rows import label_rows
from tiltlm.data.votes import read_votes
from tiltlm.recipes.data.agreed import Agreed
from tiltlm.recipes.prepare import note_all
from tiltlm.recipes.progress import ProgressCallback, silent
from tiltlm.storage.files import check_file, finite_json, write_json

VOTES_READ = (
    *FILE_KEYS,
    *("data.train", "data.split", "data.subset", "data.revision", "data.limit", "data.columns", "data.ignore"),
    *("data.on_bad", "data.max_bad"),
)
"""Settings that the command reads."""


@dataclass(frozen=True)
class VotesSettings:
    """Settings of the agreement recipe."""

    data: DataSettings


@dataclass(frozen=True)
class AgreementRequest:
    """What is asked beside the numbers."""

    labels: Path | None = None
    """File of the labels; None: no labels are made."""
    rule: LabelSettings = field(default_factory=LabelSettings)
    seed: int = 0
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.labels is None:
            if self.rule != LabelSettings():
                raise ConfigError(
                    "--rule, --ties, --min-votes and --prior have no effect without --labels FILE; add it, or remove "
                    "them",
                    code="no_effect",
                    key="--labels",
                )
            return
        check_file(self.labels, "--labels")
        check_ending(self.labels)
        if self.labels.exists() and not self.overwrite:
            raise ConfigError(
                f"--labels {self.labels} exists; give --overwrite to replace it, or another name",
                code="output_exists",
                key="--labels",
            )


def agreement(settings: VotesSettings, request: AgreementRequest, *, progress: ProgressCallback = silent) -> Agreed:
    """Measure how far annotators agree, and make labels from their votes.

    Args:
        settings: Where the votes are.
        request: The rule of the labels, and where they go.
        progress: Called as work proceeds.

    Raises:
        ConfigError: A setting cannot work.
        DataError: The votes cannot be read, or labels are asked for and the rows have no answers.
        NumericsError: The model of `dawid_skene` did not converge.
    """
    progress("read the votes", 0, 0)
    votes = read_votes(settings.data)
    note_all([*(votes.accounting.lines() if votes.accounting.dropped else ()), *votes.notes])
    if request.labels is not None:
        _check_texts(votes)
    progress("measure agreement", 0, 0)
    measured = measure_agreement(votes, seed=request.seed)
    if request.labels is None:
        return Agreed(measured)
    progress("make labels", 0, 0)
    labels = make_labels(votes, request.rule)
    rows = label_rows(votes, labels)
    if not rows:
        raise DataError(
            f"no item gets a label: {', '.join(f'{cause} {n}' for cause, n in labels.causes.items())}",
            code="no_rows_left",
            key="--labels",
        )
    spread = None
    if labels.model is not None:
        progress("intervals of the model", 0, 0)
        spread = uncertainty(votes, labels.model, prior=request.rule.prior, seed=request.seed)
    account = account_of(votes, labels, rows, spread)
    write_rows(request.labels, rows)
    plain = request.labels.name.removesuffix(".gz").removesuffix(".zst")
    beside = request.labels.with_name(f"{Path(plain).stem}.account.json")
    write_json(beside, finite_json(account))
    return Agreed(measured, account, request.labels, beside)


def _check_texts(votes: Votes) -> None:
    """Raise if labels cannot become pairs, because answers are not known."""
    missing = next((item.id for item in votes.items if not item.has_text), None)
    if missing is not None:
        raise DataError(
            f"item {missing}: its two answers are in no row, so a label cannot become a pair. Add the columns prompt, "
            "answer_a and answer_b to the votes, or name them: data.columns.answer_a=COLUMN",
            code="missing_column",
            key="data.columns",
        )
