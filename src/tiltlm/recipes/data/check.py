"""The check recipe: what is wrong with preference data, before a model is loaded."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from tiltlm.core.errors import ConfigError, DataError
from tiltlm.core.notes import Note
from tiltlm.data.data_settings import FILE_KEYS, LABEL_KEYS, DataSettings, paths_of
from tiltlm.data.dataset import find_parts, survey
from tiltlm.data.files.sources import Rows
from tiltlm.data.loader import Loader, RowReader
from tiltlm.data.quality import languages
from tiltlm.data.quality.checked_row import Check
from tiltlm.data.quality.inspection import CHECKS, BlockInspector, Inspection, evaluation_prompts, guarded, inspect_rows
from tiltlm.data.quality.rules import COLUMN_RULE, Finding
from tiltlm.data.quality.tokens import template_findings
from tiltlm.data.rows.columns import ColumnRoles, detect
from tiltlm.data.stats.languages import PACKAGE
from tiltlm.data.tokens.encoder import Encoder
from tiltlm.data.workers import MANY_ROWS, num_cores
from tiltlm.recipes.data.checked import CheckedData
from tiltlm.recipes.data.cleaning import check_cleaned, write_cleaned
from tiltlm.recipes.progress import ProgressCallback, silent
from tiltlm.recipes.run_settings import RunSettings, is_set
from tiltlm.report.data.check_report import CheckReport, report_of
from tiltlm.storage.files import check_file

log = logging.getLogger(__name__)

NO_MODEL = "(none)"
"""`model.path` where no model is named."""

CHECK_READS = (
    *LABEL_KEYS,
    *FILE_KEYS,
    *(f"model.{name}" for name in ("path", "revision", "adapter", "trust_remote_code")),
    *(f"data.{name}" for name in ("train", "eval", "split", "eval_split", "subset", "revision", "limit")),
    *(f"data.{name}" for name in ("columns", "ignore", "max_length", "truncation", "as_chat", "chat_template")),
    *("data.chat_template_kwargs", "data.transcripts", "data.processes"),
)
"""Settings that the command reads."""
SCORE_READS = (*CHECK_READS, "model", "reference", "training.max_tokens")
"""Settings that it reads with --score."""
NEED_A_MODEL = ("max_length", "truncation", "as_chat", "transcripts", "chat_template", "chat_template_kwargs")
"""Settings of the data that only a tokenizer reads."""


@dataclass(frozen=True)
class CheckRequest:
    """What is asked of a check beside its findings."""

    html: Path | None = None
    """The page to write."""
    fix: Path | None = None
    """The cleaned copy to write."""
    scores: bool = False
    """Score the pairs with model and reference, for D16."""
    languages: bool = False
    """Find the languages, for D14. It is slow, and needs a package."""
    prints_json: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.html is not None:
            check_file(self.html, "--html")


def check_settings(settings: RunSettings, request: CheckRequest) -> None:
    """Refuse settings that would have no effect, and outputs that cannot be written.

    Raises:
        ConfigError: There is one.
    """
    data = settings.data
    if request.fix is not None:
        check_cleaned(request.fix, paths_of(data.train), overwrite=request.overwrite)
    if request.scores and settings.model.path == NO_MODEL:
        raise ConfigError("--score needs a model; give --model", code="missing_setting", key="--model")
    if settings.model.path == NO_MODEL:
        for name in NEED_A_MODEL:
            if is_set(settings, f"data.{name}"):
                raise ConfigError(
                    f"data.{name} has no effect without a tokenizer; give --model, or remove it",
                    code="no_effect",
                    key=f"data.{name}",
                )


def check(settings: RunSettings, request: CheckRequest, *, progress: ProgressCallback = silent) -> CheckedData:
    """Check data, and write what was asked for.

    Args:
        settings: Data, and the model whose tokenizer is used, if one is named.
        request: What to write.
        progress: Called with the number of rows.

    Raises:
        ConfigError: A setting cannot work.
        DataError: A source is missing, or its format is unknown.
    """
    check_settings(settings, request)
    encoder = None
    if settings.model.path != NO_MODEL:
        progress("load the tokenizer", 0, 0)
        encoder = load_encoder(settings)
    parts = find_parts(settings.data)
    progress("find the columns", 0, 0)
    kinds, notes = kinds_of(request)
    inspection, report = inspect(settings.data, parts, encoder, progress, kinds=kinds)
    report = replace(report, notes=(*report.notes, *notes))
    if request.scores:
        from tiltlm.recipes.data.noise import with_noise

        report = with_noise(report, settings, progress=progress)
    cleaned = None
    if request.fix is not None and any(finding.rule is COLUMN_RULE for finding in report.findings):
        log.warning("--fix wrote nothing, because the columns cannot be read", extra={"event": "nothing_cleaned"})
    elif request.fix is not None and inspection.problems:
        reason = "a file cannot be read to its end, and how many rows it has is unknown"
        log.warning("--fix wrote nothing, because %s", reason, extra={"event": "nothing_cleaned"})
    elif request.fix is not None:
        progress("write the cleaned copy", 0, 0)
        rows = guarded(parts[0], [])
        cleaned = write_cleaned(
            request.fix, paths_of(settings.data.train), rows, inspection.left_out, inspection.rule_of
        )
    if request.html is not None:
        from tiltlm.report.data.check_page import write_check_page

        progress("draw the page", 0, 0)
        write_check_page(request.html, report)
    return CheckedData(report, request.html, cleaned, request.prints_json)


def kinds_of(request: CheckRequest) -> tuple[tuple[type[Check], ...], list[Note]]:
    """Return the checks that were asked for, and a note for one that cannot run."""
    if not request.languages:
        return CHECKS, []
    if find_spec(PACKAGE) is None:
        text = "languages were not checked: that needs a package. Install it: pip install 'tiltlm[languages]'"
        return CHECKS, [Note(text, "languages_not_checked")]
    return (*CHECKS, *languages.CHECKS), []


def load_encoder(settings: RunSettings) -> Encoder:
    """Load the tokenizer of the model, without its weights."""
    from tiltlm.models import load_tokenizer

    tokenizer, window, num_embeddings, notes = load_tokenizer(settings.model)
    for note in notes:
        log.warning("%s", note, extra={"event": note.code})
    data = settings.data
    encoder = Encoder(tokenizer, tokenizer.eos_token_id, window, num_embeddings=num_embeddings)
    return encoder.with_template(data.chat_template, data.chat_template_kwargs)


def inspect(
    settings: DataSettings,
    parts: Sequence[Rows],
    encoder: Encoder | None,
    progress: ProgressCallback = silent,
    *,
    kinds: tuple[type[Check], ...] = CHECKS,
) -> tuple[Inspection, CheckReport]:
    """Inspect rows with all checks.

    Args:
        settings: Columns, length limit, and processes are used.
        parts: Rows of the training data, then those of evaluation data.
        encoder: Tokenises the rows; None: lengths are characters.
        progress: Called with the number of rows.
        kinds: The checks.
    """
    sources = ", ".join(source.name for part in parts for source in part.sources)
    unit = "characters" if encoder is None else "tokens"
    columns, num_rows = survey([guarded(part, []) for part in parts])
    notes = [note for part in parts for note in part.notes]
    try:
        roles = roles_of(columns, settings)
    except DataError as error:
        inspection = Inspection([kind() for kind in CHECKS])
        inspection.accounting.total = num_rows
        place = () if error.row is None else (error.row,)
        inspection.found.append(Finding(COLUMN_RULE, 1, 1, place, detail=str(error)))
        return inspection, report_of(inspection, sources, "", unit, notes)
    found = [] if encoder is None or settings.as_chat is False else template_findings(encoder)
    if any(finding.rule.key == "template_unusable" for finding in found):
        encoder = None
    reader = reader_of(settings, roles, encoder)
    evaluation = evaluation_prompts(parts[1], reader) if len(parts) > 1 else None
    processes = settings.processes or (num_cores() if num_rows >= MANY_ROWS else 1)
    inspection = inspect_rows(
        parts,
        BlockInspector(reader, kinds, evaluation),
        processes,
        lambda done: progress("check", done, max(num_rows, done)),
    )
    inspection.found += found
    notes += [*roles.notes, *unused_columns(roles)]
    shape = roles.shape if columns else ""
    return inspection, report_of(inspection, sources, shape, unit, notes)


def roles_of(columns: dict[str, str], settings: DataSettings) -> ColumnRoles:
    """Return what each column is for; for data of which no row can be read, an empty pair.

    Raises:
        DataError: Columns are unknown or contradict each other.
    """
    if not columns:
        return ColumnRoles("pairs", frozenset(), (), {})
    return detect(columns, settings, use_reference_columns=True)


def unused_columns(roles: ColumnRoles) -> Iterator[Note]:
    """Yield a note that names the columns without a role."""
    if roles.unused:
        yield Note(f"columns not used: {', '.join(roles.unused)}", "unused_columns")


def reader_of(settings: DataSettings, roles: ColumnRoles, encoder: Encoder | None) -> RowReader:
    """Return what reads rows in the shape that they have; lists are compared two by two."""
    shape = "pairs" if roles.shape == "lists" else roles.shape
    plain = replace(
        settings,
        eval_fraction=0.0,
        truncation="drop" if settings.truncation == "error" else settings.truncation,  # long rows are findings here
        comparisons="all",
        min_gap=None,
        comparisons_seed=0,
    )
    if encoder is None:
        return RowReader(plain, roles, shape)
    return Loader(plain, roles, shape, encoder=encoder)
