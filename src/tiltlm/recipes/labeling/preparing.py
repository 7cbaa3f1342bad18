"""Making a project from sources, or adding pairs and settings to one that is there."""

import logging
from dataclasses import replace
from pathlib import Path

from sqlalchemy import func, select

from tiltlm.core.errors import ConfigError, DataError
from tiltlm.labeling.project import ProjectSettings
from tiltlm.labeling.store.audit import COMMAND_LINE, write_audit
from tiltlm.labeling.store.database import reading, writing
from tiltlm.labeling.store.pairs import NewPair, add_pairs, content_key
from tiltlm.labeling.store.projects import (
    DEFAULT_GUIDELINES,
    Project,
    add_guidelines,
    change_settings,
    create_project,
    has_project,
    open_project,
)
from tiltlm.labeling.store.tables import pair
from tiltlm.recipes.labeling.pairs.requests import PrepareRequest, SourceRequest, check_selection
from tiltlm.recipes.progress import ProgressCallback, silent

log = logging.getLogger(__name__)


def prepare(request: PrepareRequest, *, progress: ProgressCallback = silent) -> Project:
    """Make a project from its sources, or open one and add what is new.

    The pairs are read before the database is made, so that a source that cannot be read leaves nothing behind.

    Args:
        request: Where pairs come from, and the settings.
        progress: Called as work proceeds.

    Raises:
        TiltError: A setting, a source or the database cannot be used.
    """
    has_sources = bool(request.sources.sources)
    known = None if has_sources and not has_project(request.database) else open_project(request.database)
    before = ProjectSettings() if known is None else known.settings
    settings = replace(before, **request.settings)
    try:
        check_selection(settings.select, request.margins)
        guidelines = None if request.guidelines is None else read_guidelines_file(request.guidelines)
        pairs = _read_pairs(request, settings, is_new=known is None, progress=progress)
    except BaseException:
        if known is not None:
            known.close()
        raise
    if known is None:
        plan = {"sources": list(request.sources.sources)}
        known = create_project(request.database, settings, guidelines=guidelines or DEFAULT_GUIDELINES, plan=plan)
    _add(known, settings, pairs, guidelines)
    return replace(known, settings=settings)


def _read_pairs(
    request: PrepareRequest, settings: ProjectSettings, *, is_new: bool, progress: ProgressCallback
) -> list[NewPair]:
    """Return the pairs to label and those with a known answer. Without sources and gold nothing heavy is imported."""
    gold = _gold(request, settings, is_new=is_new)
    if not request.sources.sources:
        _refuse_without_sources(request)
        return gold
    from tiltlm.recipes.labeling.pairs.cleaning import clean, describe
    from tiltlm.recipes.labeling.pairs.reading import read_candidates
    from tiltlm.recipes.labeling.pairs.selecting import order

    cleaned = clean(read_candidates(request.sources, request.database, progress), keep_all=request.keep_all)
    for line in [*cleaned.lines(), *describe(cleaned.kept)]:
        log.info(line)
    tasks = [one.new for one in order(cleaned.kept, settings.select, request.margins, progress)]
    known_answers = {content_key(one.prompt, one.a, one.b, one.system) for one in gold}
    tasks = [one for one in tasks if content_key(one.prompt, one.a, one.b, one.system) not in known_answers]
    if not tasks:
        raise DataError(
            "no pair is left to be labelled; --keep-all keeps all but equal responses",
            code="no_rows_left",
            key="SOURCE",
        )
    return [*tasks, *gold]


def _refuse_without_sources(request: PrepareRequest) -> None:
    """Refuse options that say how sources are read.

    Raises:
        ConfigError: One is given.
    """
    plain = SourceRequest(())
    for name in ("prompts", "n", "max_new_tokens", "limit", "comparisons"):
        if getattr(request.sources, name) != getattr(plain, name):
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{option} has no effect without a source; remove it", code="no_effect", key=option)


def _gold(request: PrepareRequest, settings: ProjectSettings, *, is_new: bool) -> list[NewPair]:
    if request.gold is not None:
        from tiltlm.recipes.labeling.pairs.gold import read_gold

        return read_gold(request.gold, settings.calibration, settings.seed)
    if request.settings.get("calibration") and is_new:
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
