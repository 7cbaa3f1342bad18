"""Pairs of answers: of one model to a prompt, or of several systems side by side."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tiltlm.core.errors import ConfigError
from tiltlm.evaluation.answers.contests import pairs_of
from tiltlm.evaluation.answers.systems import System, align
from tiltlm.labeling.store.database import is_url
from tiltlm.labeling.store.pairs import NewPair
from tiltlm.recipes.answers.sample_settings import read_temperatures
from tiltlm.recipes.answers.systems import Drawing, draw_answers, name_systems, read_systems, require_prompts
from tiltlm.recipes.labeling.pairs.candidates import DRAWN, Candidate, candidates_of_data
from tiltlm.recipes.labeling.pairs.requests import SourceRequest
from tiltlm.recipes.labeling.pairs.system_text import split_system
from tiltlm.recipes.progress import ProgressCallback
from tiltlm.sampling.answers import AnswerRow


def candidates_of_systems(request: SourceRequest, database: str, progress: ProgressCallback) -> list[Candidate]:
    """Return all pairs of answers, in order.

    Args:
        request: The systems, and how models answer.
        database: The project; answers that are drawn are kept in a folder beside it.
        progress: Called as work proceeds.

    Raises:
        ConfigError: Prompts are missing, or an option has no effect.
        TiltError: A source cannot be read, or a model cannot be used.
    """
    named = name_systems(request.sources)
    for one in named:
        require_prompts(one, request.prompts)
    if len(named) == 1 and named[0].kind == "answers":
        return list(candidates_of_data(named[0].path, request))
    temperatures = read_temperatures(request.temperatures, 1.0)
    is_sampled = any(one.kind != "answers" for one in named)
    plain = SourceRequest(())
    for name, has_effect in (
        *((name, is_sampled) for name in ("prompts", "n", "max_new_tokens", "limit")),
        ("comparisons", len(named) == 1),
    ):
        if not has_effect and getattr(request, name) != getattr(plain, name):
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{option} has no effect on these sources; remove it", code="no_effect", key=option)
    drawing = Drawing(
        prompts=request.prompts,
        n=request.n,
        temperatures=temperatures,
        max_new_tokens=request.max_new_tokens,
        seed=request.seed,
        limit=request.limit,
        folder=answers_folder(database),
        is_continued=True,
    )
    if is_sampled:
        drawing.folder.mkdir(parents=True, exist_ok=True)
    if len(named) == 1:
        rows = draw_answers(named[0], drawing, progress)
        return [one for row in rows for one in _of_answers(row, named[0].name, request)]
    return list(pairs_of_systems(read_systems(named, drawing, progress)))


def answers_folder(database: str) -> Path:
    """Return the folder of the answers that are drawn for a project."""
    return Path("label.answers") if is_url(database) else Path(database).with_suffix(".answers")


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
