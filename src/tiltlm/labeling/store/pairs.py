"""Pairs of a project: adding new ones, and reading what is shown of one."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection, Integer, and_, bindparam, case, insert, select, update

from tiltlm.core.errors import DataError
from tiltlm.labeling.project import ProjectSettings
from tiltlm.labeling.store.database import storable
from tiltlm.labeling.store.tables import IS_KNOWN, pair, prompt, response

Kind = Literal["task", "gold", "calibration"]
BATCH = 500
"""Pairs that are added by one statement a table."""


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
    rows, num = iter(pairs), 0
    while part := [_read(one) for one in islice(rows, BATCH)]:
        num += _add(connection, settings, part)
    return num


class _Texts(NamedTuple):
    """A new pair as the database has it."""

    new: NewPair
    key: str
    prompt: str
    system: str
    responses: tuple[str, str]
    sampling: tuple[str, str]

    @property
    def prompt_sha(self) -> str:
        return digest(self.system, self.prompt)

    def response_sha(self, place: int) -> str:
        """Return the digest of response a (0) or b (1)."""
        return digest(self.responses[place], to_json(self.new.models[place]), self.sampling[place])


def _read(new: NewPair) -> _Texts:
    """Return the texts of a new pair.

    Raises:
        DataError: It cannot be compared.
    """
    key = storable(new.key) or content_key(new.prompt, new.a, new.b, new.system)
    responses = to_json(new.a), to_json(new.b)
    if responses[0] == responses[1]:
        raise DataError(f"pair {key}: the two responses are equal", code="identical_responses", row=key)
    if (new.kind == "task") != (new.answer is None):
        raise DataError(
            f"pair {key}: a pair of kind {new.kind} has the answer {new.answer!r}; gold and calibration need one, a, b "
            "or tie, and tasks have none",
            code="missing_value",
            row=key,
        )
    sampling = to_json(dict(new.sampling[0])), to_json(dict(new.sampling[1]))
    return _Texts(new, key, to_json(new.prompt), to_json(new.system), responses, sampling)


def _add(connection: Connection, settings: ProjectSettings, part: Sequence[_Texts]) -> int:
    """Add some pairs, and return how many are new."""
    prompts = _prompt_ids(connection, part)
    responses = _response_ids(connection, part, prompts)
    known = _known_pairs(connection, [one.key for one in part])
    rows = []
    for one in part:
        prompt_id = prompts[one.prompt_sha]
        a, b = (responses[prompt_id, one.response_sha(place)] for place in (0, 1))
        if one.key not in known:
            known[one.key] = (prompt_id, {a, b})
            rows.append(_pair_row(one, settings, prompt_id, a, b))
        elif known[one.key] != (prompt_id, {a, b}):
            raise DataError(
                f"pair {one.key} is in the project already, with another prompt or other responses; give it another id",
                code="duplicate_id",
                row=one.key,
            )
    if rows:
        connection.execute(insert(pair), rows)
    return len(rows)


def _pair_row(one: _Texts, settings: ProjectSettings, prompt_id: int, a: int, b: int) -> dict[str, Any]:
    new = one.new
    return {
        "key": one.key,
        "prompt_id": prompt_id,
        "a_id": a,
        "b_id": b,
        "source": storable(new.source),
        "kind": new.kind,
        "answer": new.answer,
        "explanation": storable(new.explanation),
        "wanted": settings.overlap if new.kind == "task" else None,
        "priority": new.priority,
        "is_random": _share(settings.seed, one.key) < settings.random_share,
        "place": int(digest(str(settings.seed), to_json(one.key))[:15], 16) % 2**31,
    }


def _known_pairs(connection: Connection, keys: Sequence[str]) -> dict[str, tuple[int, set[int]]]:
    """Return the pairs with one of these keys: the prompt and the two responses of each."""
    wanted = select(pair.c.key, pair.c.prompt_id, pair.c.a_id, pair.c.b_id).where(pair.c.key.in_(keys))
    return {key: (prompt_id, {a, b}) for key, prompt_id, a, b in connection.execute(wanted)}


def _prompt_ids(connection: Connection, part: Sequence[_Texts]) -> dict[str, int]:
    """Return the id of each prompt by its digest; new ones are added."""
    new = {one.prompt_sha: {"content": one.prompt, "system": one.system} for one in part}
    wanted = select(prompt.c.sha256, prompt.c.id).where(prompt.c.sha256.in_(new))
    ids = {row.sha256: row.id for row in connection.execute(wanted)}
    if rows := [{"sha256": sha, **row} for sha, row in new.items() if sha not in ids]:
        made = connection.execute(insert(prompt).returning(prompt.c.sha256, prompt.c.id), rows)
        ids |= {row.sha256: row.id for row in made}
    return ids


def _response_ids(
    connection: Connection, part: Sequence[_Texts], prompts: Mapping[str, int]
) -> dict[tuple[int, str], int]:
    """Return the id of each response by its prompt and digest; new ones are added."""
    new = {
        (prompts[one.prompt_sha], one.response_sha(place)): {
            "content": one.responses[place],
            "model": storable(one.new.models[place]),
            "sampling": one.sampling[place],
        }
        for one in part
        for place in (0, 1)
    }
    columns = (response.c.prompt_id, response.c.sha256, response.c.id)
    wanted = select(*columns).where(response.c.sha256.in_({sha for _, sha in new}))
    ids = {(prompt_id, sha): number for prompt_id, sha, number in connection.execute(wanted)}
    if rows := [{"prompt_id": k, "sha256": sha, **row} for (k, sha), row in new.items() if (k, sha) not in ids]:
        made = connection.execute(insert(response).returning(*columns), rows)
        ids |= {(prompt_id, sha): number for prompt_id, sha, number in made}
    return ids


def _share(seed: int, key: str) -> float:
    """Return a number in [0, 1) for a key, independent of its place in the random order."""
    return int(digest("random slice", str(seed), to_json(key))[:13], 16) / 16**13


# Statements of every vote are built once: that takes SQLAlchemy twenty times as long as running one.
_overlap, _more = bindparam("overlap", type_=Integer), bindparam("more", type_=Integer)
_num_votes = pair.c.votes_a + pair.c.votes_b + pair.c.votes_tie
_target = case((and_(_num_votes >= _overlap, pair.c.dispute > 0), _more), else_=_overlap)
_SET_ALL_WANTED = (
    update(pair).where(~IS_KNOWN).values(wanted=case((pair.c.assigned > _target, pair.c.assigned), else_=_target))
)
_SET_WANTED = _SET_ALL_WANTED.where(pair.c.id == bindparam("this"))


def set_wanted(connection: Connection, settings: ProjectSettings, pair_id: int | None = None) -> None:
    """Set how many votes a task wants: `overlap`, and `extra` more if so many votes disagree.

    It is never below the number of assignments that it has already.

    Args:
        connection: A transaction that writes.
        settings: The settings that say how many.
        pair_id: The task; None: all of them.
    """
    numbers = {"overlap": settings.overlap, "more": settings.overlap + settings.extra}
    if pair_id is None:
        connection.execute(_SET_ALL_WANTED, numbers)
    else:
        connection.execute(_SET_WANTED, {**numbers, "this": pair_id})


@dataclass(frozen=True)
class ShownPair:
    """The contents of a pair, without who wrote what."""

    id: int
    prompt: Any
    system: str
    a: Any
    b: Any


_first, _second = response.alias("first"), response.alias("second")
_CONTENTS = (
    select(prompt.c.content, prompt.c.system, _first.c.content, _second.c.content)
    .select_from(pair)
    .join(prompt, prompt.c.id == pair.c.prompt_id)
    .join(_first, _first.c.id == pair.c.a_id)
    .join(_second, _second.c.id == pair.c.b_id)
    .where(pair.c.id == bindparam("this"))
)


def read_pair(connection: Connection, pair_id: int) -> ShownPair:
    """Return the contents of a pair."""
    row = connection.execute(_CONTENTS, {"this": pair_id}).one()
    content, system, a, b = (json.loads(text) for text in row)
    return ShownPair(pair_id, content, system, a, b)
