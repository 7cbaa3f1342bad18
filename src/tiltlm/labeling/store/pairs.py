"""Pairs of a project: adding new ones, and reading what is shown of one."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import Connection, and_, case, insert, select, update

from tiltlm.core.errors import DataError
from tiltlm.labeling.project import ProjectSettings
from tiltlm.labeling.store.database import storable
from tiltlm.labeling.store.tables import pair, prompt, response

Kind = Literal["task", "gold", "calibration"]


@dataclass(frozen=True)
class NewPair:
    """Two responses to one prompt, to be compared."""

    prompt: Any
    """Text, or turns (`role`, `content`)."""
    a: Any
    """Text, or turns."""
    b: Any
    key: str = ""
    """Id of the row it came from; "": a digest of the content."""
    system: str = ""
    source: str = ""
    models: tuple[str, str] = ("", "")
    """Who wrote a and b; never shown to annotators."""
    sampling: tuple[Mapping[str, Any], Mapping[str, Any]] = field(default_factory=lambda: ({}, {}))
    """How a and b were drawn."""
    kind: Kind = "task"
    answer: Literal["a", "b", "tie"] | None = None
    """The known answer of gold and calibration."""
    explanation: str = ""
    priority: float = 0.0
    """Lower is earlier, for `uncertain` and `diverse`."""


def to_json(content: Any) -> str:
    """Return content as JSON in ASCII, as the database has it."""
    return json.dumps(content, sort_keys=True, default=list)


def digest(*texts: str) -> str:
    """Return the SHA-256 of texts, each with its length."""
    joined = b"".join(len(own).to_bytes(8, "big") + own for own in (text.encode("ascii") for text in texts))
    return hashlib.sha256(joined).hexdigest()


def content_key(new_prompt: Any, a: Any, b: Any, system: str = "") -> str:
    """Return a digest of a pair that does not depend on the order of the two responses."""
    return digest(to_json(system), to_json(new_prompt), *sorted((to_json(a), to_json(b))))


def add_pairs(connection: Connection, settings: ProjectSettings, pairs: Iterable[NewPair]) -> int:
    """Add pairs to a project, and return how many are new. One with a key that is there already is left as it is.

    Raises:
        DataError: A pair has two equal responses, a known key has other content, or gold has no answer.
    """
    return sum(_add(connection, settings, one) for one in pairs)


def _add(connection: Connection, settings: ProjectSettings, new: NewPair) -> bool:
    content = to_json(new.prompt)
    texts = [to_json(one) for one in (new.a, new.b)]
    key = storable(new.key) or content_key(new.prompt, new.a, new.b, new.system)
    if texts[0] == texts[1]:
        raise DataError(f"pair {key}: the two responses are equal", code="identical_responses", row=key)
    if (new.kind == "task") != (new.answer is None):
        raise DataError(
            f"pair {key}: a pair of kind {new.kind} has the answer {new.answer!r}; gold and calibration need one, a, b "
            "or tie, and tasks have none",
            code="missing_value",
            row=key,
        )
    prompt_id = _prompt_id(connection, content, to_json(new.system))
    ids = [
        _response_id(connection, prompt_id, text, model, to_json(dict(sampling)))
        for text, model, sampling in zip(texts, new.models, new.sampling, strict=True)
    ]
    known = connection.execute(select(pair.c.prompt_id, pair.c.a_id, pair.c.b_id).where(pair.c.key == key)).first()
    if known is not None:
        if known[0] != prompt_id or {known[1], known[2]} != set(ids):
            raise DataError(
                f"pair {key} is in the project already, with another prompt or other responses; give it another id",
                code="duplicate_id",
                row=key,
            )
        return False
    place = int(digest(str(settings.seed), to_json(key))[:15], 16)
    values = {
        "key": key,
        "prompt_id": prompt_id,
        "a_id": ids[0],
        "b_id": ids[1],
        "source": storable(new.source),
        "kind": new.kind,
        "answer": new.answer,
        "explanation": storable(new.explanation),
        "wanted": settings.overlap if new.kind == "task" else None,
        "priority": new.priority,
        "is_random": _share(settings.seed, key) < settings.random_share,
        "place": place % 2**31,
    }
    connection.execute(insert(pair).values(values))
    return True


def _share(seed: int, key: str) -> float:
    """Return a number in [0, 1) for a key, independent of its place in the random order."""
    return int(digest("random slice", str(seed), to_json(key))[:13], 16) / 16**13


def _prompt_id(connection: Connection, content: str, system: str) -> int:
    sha = digest(system, content)
    found = connection.execute(select(prompt.c.id).where(prompt.c.sha256 == sha)).scalar()
    if found is None:
        made = insert(prompt).values(sha256=sha, content=content, system=system).returning(prompt.c.id)
        found = connection.execute(made).scalar_one()
    return int(found)


def _response_id(connection: Connection, prompt_id: int, content: str, model: str, sampling: str) -> int:
    sha = digest(content, to_json(model), sampling)
    same = (response.c.prompt_id == prompt_id) & (response.c.sha256 == sha)
    found = connection.execute(select(response.c.id).where(same)).scalar()
    if found is None:
        values = {
            "prompt_id": prompt_id,
            "sha256": sha,
            "content": content,
            "model": storable(model),
            "sampling": sampling,
        }
        found = connection.execute(insert(response).values(values).returning(response.c.id)).scalar_one()
    return int(found)


def set_wanted(connection: Connection, settings: ProjectSettings, pair_id: int | None = None) -> None:
    """Set how many votes a task wants: `overlap`, and `extra` more if so many votes disagree.

    It is never below the number of assignments that it has already.

    Args:
        connection: A transaction that writes.
        settings: The settings that say how many.
        pair_id: The task; None: all of them.
    """
    num = pair.c.votes_a + pair.c.votes_b + pair.c.votes_tie
    is_disputed = and_(num >= settings.overlap, pair.c.dispute > 0)
    target = case((is_disputed, settings.overlap + settings.extra), else_=settings.overlap)
    tasks = update(pair).where(pair.c.kind == "task")
    chosen = tasks if pair_id is None else tasks.where(pair.c.id == pair_id)
    connection.execute(chosen.values(wanted=case((pair.c.assigned > target, pair.c.assigned), else_=target)))


@dataclass(frozen=True)
class ShownPair:
    """The contents of a pair, without who wrote what."""

    id: int
    prompt: Any
    system: str
    a: Any
    b: Any


def read_pair(connection: Connection, pair_id: int) -> ShownPair:
    """Return the contents of a pair."""
    first, second = response.alias(), response.alias()
    wanted = (
        select(prompt.c.content, prompt.c.system, first.c.content, second.c.content)
        .select_from(pair)
        .join(prompt, prompt.c.id == pair.c.prompt_id)
        .join(first, first.c.id == pair.c.a_id)
        .join(second, second.c.id == pair.c.b_id)
        .where(pair.c.id == pair_id)
    )
    row = connection.execute(wanted).one()
    content, system, a, b = (json.loads(text) for text in row)
    return ShownPair(pair_id, content, system, a, b)
