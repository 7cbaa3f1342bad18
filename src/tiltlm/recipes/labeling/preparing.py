"""Making a project from sources, or adding pairs and settings to one that is there."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from tiltlm.core.errors import ConfigError, DataError
from tiltlm.labeling.project import ProjectSettings
from tiltlm.labeling.store.audit import COMMAND_LINE, write_audit
from tiltlm.labeling.store.database import is_url, reading, writing
from tiltlm.labeling.store.pairs import NewPair, add_pairs, content_key
from tiltlm.labeling.store.projects import (
    DEFAULT_GUIDELINES,
    Project,
    add_guidelines,
    change_settings,
    create_project,
    open_project,
)
from tiltlm.labeling.store.tables import pair
from tiltlm.recipes.labeling.candidates import SourceRequest, check_sources, read_candidates
from tiltlm.recipes.labeling.cleaning import clean, describe
from tiltlm.recipes.labeling.gold import read_gold
from tiltlm.recipes.labeling.selecting import MarginSettings, check_selection, order
from tiltlm.recipes.progress import ProgressCallback, silent

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PrepareRequest:
    """A project to make, or to continue."""

    database: str
    sources: SourceRequest
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the project that are given; others are as they were, or at their defaults."""
    gold: Path | None = None
    guidelines: Path | None = None
    margins: MarginSettings = field(default_factory=MarginSettings)
    keep_all: bool = False


def prepare(request: PrepareRequest, *, progress: ProgressCallback = silent) -> Project:
    """Make a project from its sources, or open one and add what is new.

    The pairs are read before the database is made, so that a source that cannot be read leaves nothing behind.

    Args:
        request: Where pairs come from, and the settings.
        progress: Called as work proceeds.

    Raises:
        TiltError: A setting, a source or the database cannot be used.
    """
    named = check_sources(request.sources)
    known = _open(request.database, is_new=bool(named))
    before = ProjectSettings() if known is None else known.settings
    settings = replace(before, **request.settings)
    try:
        check_selection(settings.select, request.margins)
        gold = _gold(request, settings, known)
        guidelines = None if request.guidelines is None else read_guidelines_file(request.guidelines)
        pairs: list[NewPair] = []
        if named:
            candidates = read_candidates(request.sources, named, request.database, progress)
            cleaned = clean(candidates, keep_all=request.keep_all)
            for line in [*cleaned.lines(), *describe(cleaned.kept)]:
                log.info(line)
            pairs = [one.new for one in order(cleaned.kept, settings.select, request.margins, progress)]
            if not pairs:
                raise DataError(
                    "no pair is left to be labelled; --keep-all keeps all but equal responses",
                    code="no_rows_left",
                    key="SOURCE",
                )
    except BaseException:
        if known is not None:
            known.close()
        raise
    project = known
    if project is None:
        plan = {"sources": list(request.sources.sources), "systems": [one.name for one in named if len(named) > 1]}
        project = create_project(request.database, settings, guidelines=guidelines or DEFAULT_GUIDELINES, plan=plan)
    known_answers = {content_key(one.prompt, one.a, one.b, one.system) for one in gold}
    tasks = [one for one in pairs if content_key(one.prompt, one.a, one.b, one.system) not in known_answers]
    _add(project, settings, [*tasks, *gold], guidelines)
    return replace(project, settings=settings)


def _open(database: str, *, is_new: bool) -> Project | None:
    """Return the project of a database; None if one is to be made.

    Raises:
        DataError: There is none, and there are no sources.
    """
    if is_new and not is_url(database) and not Path(database).exists():
        return None
    try:
        return open_project(database)
    except DataError as error:
        if is_new and error.code == "no_project":
            return None
        raise


def _gold(request: PrepareRequest, settings: ProjectSettings, known: Project | None) -> list[NewPair]:
    if request.gold is not None:
        return read_gold(request.gold, settings.calibration, settings.seed)
    if request.settings.get("calibration") and known is None:
        raise ConfigError(
            "--calibration has no effect without --gold FILE: it takes pairs with a known answer; add the file",
            code="no_effect",
            key="--calibration",
        )
    return []


def read_guidelines_file(path: Path) -> str:
    """Return the guidelines of a file in Markdown.

    Raises:
        ConfigError: The file is missing, empty or no text.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"--guidelines {path} cannot be read: {error}", code="not_readable", key="--guidelines"
        ) from error
    if not text.strip():
        raise ConfigError(f"--guidelines {path} is empty", code="empty", key="--guidelines")
    return text


def _add(project: Project, settings: ProjectSettings, pairs: list[NewPair], guidelines: str | None) -> None:
    """Add what is new to a project, in one transaction."""
    with writing(project.engine) as connection:
        if settings != project.settings:
            change_settings(connection, settings)
            write_audit(connection, COMMAND_LINE, "settings", **settings.as_dict())
        if guidelines is not None:
            version = add_guidelines(connection, guidelines)
            write_audit(connection, COMMAND_LINE, "guidelines", version=version)
        if pairs:
            num = add_pairs(connection, settings, pairs)
            log.info("%s new pairs; %s were in the project already", f"{num:,}", f"{len(pairs) - num:,}")
            write_audit(connection, COMMAND_LINE, "pairs", added=num)


def count_pairs(project: Project) -> dict[str, int]:
    """Return how many pairs of each kind a project has."""
    with reading(project.engine) as connection:
        rows = connection.execute(select(pair.c.kind, func.count()).group_by(pair.c.kind))
        return {str(kind): int(num) for kind, num in rows}
