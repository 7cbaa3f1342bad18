"""The stats recipe: read data once and say what is in it; with `--needed`, what more labels would bring."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from tiltlm.core import ConfigError, DataError
from tiltlm.core.notes import Note
from tiltlm.data import DataSettings, Encoder
from tiltlm.data.accounting import Defect
from tiltlm.data.data_settings import FILE_KEYS, LABEL_KEYS
from tiltlm.data.dataset import refuse_unreadable, survey
from tiltlm.data.files.sources import read_rows
from tiltlm.data.files.text_files import Row
from tiltlm.data.loader import as_read, count_defect
from tiltlm.data.rows.columns import ColumnRoles, detect
from tiltlm.data.rows.records import Record, to_record
from tiltlm.data.stats.languages import PACKAGE, add_languages
from tiltlm.data.stats.needed import Pilot, learning_curve
from tiltlm.data.stats.statistics import UNITS, DataStatistics
from tiltlm.data.whole_rows import whole_rows
from tiltlm.data.workers import blocks_of
from tiltlm.models import ModelSettings, load_tokenizer
from tiltlm.recipes.data.check import NO_MODEL
from tiltlm.recipes.data.described import Described
from tiltlm.recipes.prepare import note_all
from tiltlm.recipes.progress import ProgressCallback, silent
from tiltlm.report.data.stats import write_stats
from tiltlm.storage.files import check_file

log = logging.getLogger(__name__)

STATS_READ = (
    *LABEL_KEYS,
    *FILE_KEYS,
    *("data.train", "data.split", "data.subset", "data.revision", "data.limit", "data.columns", "data.ignore"),
    *("data.on_bad", "data.max_bad", "data.as_chat", "data.transcripts", "data.chat_template"),
    *("data.chat_template_kwargs", "model"),
)
"""Settings that the command reads."""


@dataclass(frozen=True)
class StatsSettings:
    """Settings of the stats recipe."""

    data: DataSettings
    model: ModelSettings
    """Its path is `NO_MODEL` if there is none."""


@dataclass(frozen=True)
class StatsRequest:
    """What is asked beside the numbers."""

    html: Path | None = None
    """File of the page; None: no page."""
    needed: bool = False
    """Fit a learning curve."""
    languages: bool = False
    """Find languages; it is slow, and needs a package."""
    seed: int = 0
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.html is None:
            return
        check_file(self.html, "--html")
        if self.html.suffix != ".html":
            raise ConfigError(
                f"--html is {self.html}; the name must end with .html", code="unknown_file_format", key="--html"
            )
        if self.html.exists() and not self.overwrite:
            raise ConfigError(
                f"--html {self.html} exists; give --overwrite to replace it, or another name",
                code="output_exists",
                key="--html",
            )


@dataclass
class Reader:
    """Reads rows into statistics, a block at a time."""

    settings: DataSettings
    schema: ColumnRoles
    encoder: Encoder | None
    statistics: DataStatistics
    languages: bool
    pilot: Pilot | None
    records: list[Record] = field(default_factory=list)

    def read(self, block: Sequence[Row]) -> None:
        """Add a block of rows."""
        accounting = self.statistics.accounting
        accounting.total += len(block)
        self.records = []
        for row in block:
            with count_defect(accounting, row.location):
                self.records.append(to_record(row, self.schema))
        for record, tokens in zip(self.records, self._tokens(), strict=True):
            if isinstance(tokens, Defect):
                accounting.drop(record.location, tokens)
                continue
            lengths = {unit: measure(record) for unit, measure in UNITS.items()} if record.form != "tokens" else {}
            self.statistics.add(record, lengths | tokens)
            if self.languages:
                add_languages(record, self.statistics)
            if self.pilot is not None:
                self.pilot.add(record)

    def _tokens(self) -> Iterator[dict[str, tuple[int, list[int]]] | Defect]:
        """Yield the number of tokens of each record, as training would have them before its length limit."""
        if self.encoder is None:
            yield from ({} for _ in self.records)
            return
        records = [as_read(record, self.schema, self.settings, self.encoder) for record in self.records]
        for encoded in self.encoder.encode_many(records):
            if isinstance(encoded, Defect):
                yield encoded
            else:
                yield {"tokens": (len(encoded.prompt_ids), [len(r.token_ids) for r in encoded.responses])}


def stats(settings: StatsSettings, request: StatsRequest, *, progress: ProgressCallback = silent) -> Described:
    """Say what is in some data.

    Args:
        settings: The data, and the model whose tokenizer counts tokens.
        request: The page, and whether a learning curve is fitted.
        progress: Called with the number of rows read.

    Raises:
        ConfigError: A setting has no effect, or the data does not serve `--needed`.
        DataError: The data cannot be read, or too many rows are defective.
    """
    _refuse_unread(settings)
    source = whole_rows(read_rows(settings.data))
    progress("find the columns", 0, 0)
    columns, num_rows = survey([source])
    if not columns:
        refuse_unreadable(source)
    schema = detect(columns, settings.data)
    if request.needed and schema.shape not in ("pairs", "lists"):
        raise DataError(
            f"--needed measures how well labels can be predicted from pairs or lists, and the rows are {schema.shape}",
            code="wrong_data_shape",
            key="--needed",
        )
    note_all([*schema.notes, *source.notes])
    reader = Reader(
        settings=settings.data,
        schema=schema,
        encoder=_encoder(settings),
        statistics=DataStatistics(schema.shape),
        languages=_can_find_languages(request),
        pilot=Pilot() if request.needed else None,
    )
    done = 0
    for block in blocks_of(source):
        reader.read(block)
        done += len(block)
        progress("read", done, num_rows)
    found = reader.statistics
    found.accounting.check_limit(settings.data.max_bad, settings.data.on_bad)
    if not found.num_rows:
        raise DataError("no row can be used", code="no_rows_left", key="data.train")
    curve = None
    if reader.pilot is not None:
        progress("fit a learning curve", 0, 0)
        curve = learning_curve(reader.pilot, seed=request.seed)
    name = ", ".join(part.name for part in source.sources)
    if request.html is not None:
        write_stats(request.html, name, found, curve)
    return Described(name, found, curve, request.html)


def _can_find_languages(request: StatsRequest) -> bool:
    """Return whether languages are asked for and can be found; a note says what is missing."""
    if request.languages and find_spec(PACKAGE) is None:
        text = "languages were not measured: that needs a package. Install it: pip install 'tiltlm[languages]'"
        note_all([Note(text, "languages_not_measured")])
        return False
    return request.languages


def _refuse_unread(settings: StatsSettings) -> None:
    """Refuse settings of tokens without a model."""
    if settings.model.path != NO_MODEL:
        return
    for name in ("as_chat", "transcripts", "chat_template", "chat_template_kwargs"):
        if getattr(settings.data, name):
            raise ConfigError(
                f"data.{name} has no effect without a model: only tokens depend on it. Give --model, or remove it",
                code="no_effect",
                key=f"data.{name}",
            )


def _encoder(settings: StatsSettings) -> Encoder | None:
    if settings.model.path == NO_MODEL:
        return None
    tokenizer, window, num_embeddings, notes = load_tokenizer(settings.model)
    note_all(notes)
    encoder = Encoder(tokenizer, tokenizer.eos_token_id, window, num_embeddings=num_embeddings)
    return encoder.with_template(settings.data.chat_template, settings.data.chat_template_kwargs)
