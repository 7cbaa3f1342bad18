"""Pairs that may be labelled: from data, from the samples of one model, or from the answers of several systems."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tiltlm.core.errors import ConfigError, DataError
from tiltlm.data.data_settings import DataSettings
from tiltlm.evaluation.answers.contests import pairs_of
from tiltlm.evaluation.answers.systems import System, align
from tiltlm.labeling.store.database import is_url
from tiltlm.labeling.store.pairs import NewPair
from tiltlm.recipes.answers.judged_rows import JudgedRow, read_judged
from tiltlm.recipes.answers.sample_settings import read_temperatures
from tiltlm.recipes.answers.systems import Drawing, Named, draw_answers, name_systems, read_systems, require_prompts
from tiltlm.recipes.labeling.pairs.requests import SourceRequest
from tiltlm.recipes.labeling.pairs.system_text import split_system
from tiltlm.recipes.prepare import note_all
from tiltlm.recipes.progress import ProgressCallback
from tiltlm.sampling.answers import AnswerRow

DRAWN = ("temperature", "seed", "model_digest", "engine")
"""Columns that say how an answer was drawn."""


@dataclass(frozen=True)
class Candidate:
    """A pair, and what decides if and when it is labelled."""

    new: NewPair
    texts: tuple[str, str]
    """The two responses as text."""
    ended: tuple[bool, bool] = (True, True)
    """False for a response that was cut."""
    margin: float | None = None
    """Difference of two rewards that the row of the pair has."""


def check_sources(request: SourceRequest) -> list[Named]:
    """Refuse what can be seen to be wrong before a model is loaded, and return the named sources.

    Raises:
        ConfigError: Prompts are missing, or an option has no effect.
    """
    if request.comparisons is not None and request.comparisons.rule == "best_worst":
        raise ConfigError(
            "--comparisons is best_worst; pairs for people are all or random:K, because nobody has judged them yet",
            code="unknown_name",
            key="--comparisons",
        )
    named = name_systems(request.sources)
    for one in named:
        require_prompts(one, request.prompts)
    is_sampled = any(one.kind != "answers" for one in named)
    has_lists = len(named) == 1
    request, defaults = _with_numbers(request), SourceRequest((), temperatures=(1.0,))
    for name, has_effect in (
        *((name, is_sampled) for name in ("prompts", "n", "temperatures", "max_new_tokens")),
        *(("comparisons", has_lists), ("limit", bool(named))),
    ):
        if not has_effect and getattr(request, name) != getattr(defaults, name):
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{option} has no effect on these sources; remove it", code="no_effect", key=option)
    return named


def _with_numbers(request: SourceRequest) -> SourceRequest:
    """Return a request whose temperatures are numbers; the command line gives text."""
    return replace(request, temperatures=read_temperatures(request.temperatures, 1.0))


def read_candidates(
    request: SourceRequest, named: Sequence[Named], database: str, progress: ProgressCallback
) -> list[Candidate]:
    """Return all pairs of the sources, in order.

    Args:
        request: Where they come from.
        named: From `check_sources`.
        database: The project; answers that are drawn are kept in a folder beside it.
        progress: Called as work proceeds.

    Raises:
        TiltError: A source cannot be read, or a model cannot be used.
    """
    if len(named) == 1 and named[0].kind == "answers":
        return list(_of_data(named[0], request))
    drawing = Drawing(
        prompts=request.prompts,
        n=request.n,
        temperatures=read_temperatures(request.temperatures, 1.0),
        max_new_tokens=request.max_new_tokens,
        seed=request.seed,
        limit=request.limit,
        folder=answers_folder(database),
        is_continued=True,
    )
    if any(one.kind != "answers" for one in named):
        drawing.folder.mkdir(parents=True, exist_ok=True)
    if len(named) == 1:
        rows = draw_answers(named[0], drawing, progress)
        return [one for row in rows for one in _of_answers(row, named[0].name, request)]
    return list(pairs_of_systems(read_systems(named, drawing, progress)))


def answers_folder(database: str) -> Path:
    """Return the folder of the answers that are drawn for a project."""
    return Path("label.answers") if is_url(database) else Path(database).with_suffix(".answers")


def _of_data(one: Named, request: SourceRequest) -> Iterator[Candidate]:
    """Yield the pairs of a data file: rows that are pairs, or lists of responses."""
    data = read_judged(DataSettings(one.path, limit=request.limit))
    note_all([*data.accounting.lines(), *data.notes] if data.accounting.dropped else data.notes)
    if data.shape not in ("pairs", "lists"):
        raise DataError(
            f"{one.path}: the rows have single responses, and people compare two; give pairs (chosen, rejected) or "
            "lists of responses (completions)",
            code="wrong_data_shape",
            key="SOURCE",
        )
    if data.shape == "pairs" and request.comparisons is not None:
        raise ConfigError(
            "--comparisons chooses pairs of a list, and the data has pairs; remove it",
            code="no_effect",
            key="--comparisons",
        )
    ids = [row.values.get("id") for row in data.rows]
    has_ids = None not in ids and len(set(map(str, ids))) == len(ids)
    for row in data.rows:
        prompt, system = split_system(row.prompt)
        chosen = request.pairing.choose(row.prompt, row.responses, request.seed) if data.shape == "lists" else [(0, 1)]
        for i, j in chosen:
            key = "" if not has_ids else str(row.values["id"])
            key += f"/{i}-{j}" if key and data.shape == "lists" else ""
            name = str(row.values.get("model") or "")
            sampling = {column: row.values[column] for column in DRAWN if row.values.get(column) is not None}
            new = NewPair(
                prompt,
                row.responses[i],
                row.responses[j],
                key=key,
                system=system,
                source=str(row.values.get("source") or ""),
                models=(name, name),
                sampling=({**sampling, "index": i}, {**sampling, "index": j}) if sampling else ({}, {}),
            )
            yield Candidate(new, (row.responses[i], row.responses[j]), (row.ended[i], row.ended[j]), margin_of(row))


def margin_of(row: JudgedRow) -> float | None:
    """Return the column `margin` of a row."""
    value = row.values.get("margin")
    return float(value) if isinstance(value, int | float) else None


def _of_answers(row: AnswerRow, name: str, request: SourceRequest) -> Iterator[Candidate]:
    """Yield the pairs of the answers of one model to one prompt."""
    for i, j in request.pairing.choose(row.prompt, row.answers, request.seed):
        yield _of_two(row, i, name, row, j, name)


def pairs_of_systems(systems: Sequence[System]) -> Iterator[Candidate]:
    """Yield the i-th answers of every two systems to the same prompt, side by side."""
    aligned = align(systems)
    for first, second in pairs_of([system.name for system in aligned.systems], None):
        for temperature in aligned.temperatures:
            for prompt in aligned.prompts:
                one, two = (aligned.rows[name, temperature, prompt] for name in (first, second))
                for i in range(min(len(one.answers), len(two.answers))):
                    yield _of_two(one, i, first, two, i, second)


def _of_two(one: AnswerRow, i: int, first: str, two: AnswerRow, j: int, second: str) -> Candidate:
    prompt, system = split_system(one.prompt if isinstance(one.prompt, str) else tuple(one.prompt))
    texts = (one.answers[i], two.answers[j])
    sampling = (_drawn(one, i), _drawn(two, j))
    new = NewPair(prompt, *texts, system=system, source=one.category, models=(first, second), sampling=sampling)
    return Candidate(new, texts, (one.ended[i], two.ended[j]))


def _drawn(row: AnswerRow, index: int) -> Mapping[str, Any]:
    """Return how an answer was drawn, as far as it is known."""
    known = {name: getattr(row, name) for name in DRAWN if getattr(row, name) not in (None, "")}
    return {**known, "index": index} if known else {}


def with_priorities(candidates: Sequence[Candidate], priorities: Sequence[float]) -> list[Candidate]:
    """Return candidates whose pairs have these priorities."""
    return [
        replace(one, new=replace(one.new, priority=float(value)))
        for one, value in zip(candidates, priorities, strict=True)
    ]
