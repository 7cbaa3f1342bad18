"""Pairs that may be labelled, and those of a data file. No library of models is loaded for them."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from tiltlm.core.errors import ConfigError, DataError
from tiltlm.data.data_settings import DataSettings
from tiltlm.labeling.store.pairs import NewPair
from tiltlm.recipes.answers.judged_rows import JudgedRow, read_judged
from tiltlm.recipes.labeling.pairs.requests import SourceRequest
from tiltlm.recipes.labeling.pairs.system_text import split_system

log = logging.getLogger(__name__)

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


def candidates_of_data(path: str, request: SourceRequest) -> Iterator[Candidate]:
    """Yield the pairs of a data file: rows that are pairs, or lists of responses.

    Args:
        path: The file.
        request: How many rows are read, and which responses of a list are compared.

    Raises:
        ConfigError: An option has no effect.
        DataError: The file cannot be read, or its rows have single responses.
    """
    plain = SourceRequest(())
    for name in ("prompts", "n", "max_new_tokens"):
        if getattr(request, name) != getattr(plain, name):
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(
                f"{option} has no effect on a data file, because nothing is sampled; remove it",
                code="no_effect",
                key=option,
            )
    data = read_judged(DataSettings(path, limit=request.limit))
    for line in [*(data.accounting.lines() if data.accounting.dropped else ()), *data.notes]:
        log.info("%s", line)
    if data.shape not in ("pairs", "lists"):
        raise DataError(
            f"{path}: the rows have single responses, and people compare two; give pairs (chosen, rejected) or "
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


def with_priorities(candidates: Sequence[Candidate], priorities: Sequence[float]) -> list[Candidate]:
    """Return candidates whose pairs have these priorities."""
    return [
        replace(one, new=replace(one.new, priority=float(value)))
        for one, value in zip(candidates, priorities, strict=True)
    ]
