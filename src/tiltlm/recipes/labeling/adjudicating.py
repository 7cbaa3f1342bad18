"""Deciding disputed pairs from the command line."""

import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from sqlalchemy import Connection, select

from tiltlm.core.checks import suggestion
from tiltlm.core.errors import ConfigError, DataError
from tiltlm.core.notes import visible
from tiltlm.labeling.monitor.disputes import Filter, Listed, Opinion, list_pairs, opinions
from tiltlm.labeling.queue.ballots import adjudicate
from tiltlm.labeling.queue.contents import as_turns
from tiltlm.labeling.store.audit import write_audit
from tiltlm.labeling.store.database import reading, writing
from tiltlm.labeling.store.pairs import ShownPair, read_pair
from tiltlm.labeling.store.people import Person, add_person, find_person
from tiltlm.labeling.store.projects import open_project
from tiltlm.labeling.store.tables import pair
from tiltlm.recipes.labeling.terminal import account_name

Decision = Literal["a", "b", "tie"]
DECISIONS: tuple[Decision, ...] = get_args(Decision)
SHOWN = 50
"""Pairs of the list."""


@dataclass(frozen=True)
class Disputes:
    """Pairs whose votes disagree and that nobody decided, the most disputed first."""

    pairs: Sequence[Listed]
    """The first `SHOWN` of them."""
    total: int

    def as_dict(self) -> dict[str, Any]:
        """Return them as plain values for JSON."""
        return {"total": self.total, "pairs": [asdict(one) for one in self.pairs]}

    def summary(self) -> str:
        """Return what the command line prints."""
        if not self.pairs:
            return "no pair has votes that disagree and no decision"
        rows = [("pair", "a : b", "ties", "notes", "prompt")]
        for one in self.pairs:
            a, b, ties = one.counts
            rows.append(
                (visible(one.key), f"{a} : {b}", f"{ties or ''}", f"{one.num_notes or ''}", visible(one.prompt))
            )
        widths = [max(len(row[k]) for row in rows) for k in range(4)]
        lines = ["  ".join([*(row[k].ljust(widths[k]) for k in range(4)), row[4]]).rstrip() for row in rows]
        more = f", the first {len(self.pairs)} of them" if self.total > len(self.pairs) else ""
        hint = "`tiltlm label adjudicate PAIR` shows a pair; with a, b or tie after it, it decides the pair"
        return "\n".join([f"{self.total:,} disputed pairs{more}", "", *lines, "", hint])


@dataclass(frozen=True)
class Disputed:
    """One pair, and what was said about it."""

    key: str
    contents: ShownPair
    said: Sequence[Opinion]
    decision: Decision | None = None
    """What was decided by this call; None: nothing."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values for JSON."""
        said = [asdict(one) for one in self.said]
        return {"key": self.key, "decision": self.decision, **asdict(self.contents), "said": said}

    def summary(self) -> str:
        """Return what the command line prints."""
        if self.decision is not None:
            return f"{visible(self.key)}: decided, {self.decision}"
        pair = self.contents
        texts = [("system", pair.system, "system")] if pair.system else []
        texts += [
            ("prompt", pair.prompt, "user"),
            ("response a", pair.a, "assistant"),
            ("response b", pair.b, "assistant"),
        ]
        lines = [f"pair {visible(self.key)}", ""]
        for name, content, role in texts:
            turns = as_turns(content, role)
            lines += [
                f"── {name} ──",
                *(visible(f"{who}: {text}" if len(turns) > 1 else text) for who, text in turns),
                "",
            ]
        for one in self.said:
            words = "".join(f", {visible(text)}" for text in (one.reason, one.note) if text)
            lines.append(f"{one.name}{' decided' if one.is_decision else ''}: {one.choice}{words}")
        return "\n".join(lines)


def adjudicate_pair(
    database: str, key: str | None, choice: str | None, *, note: str = "", name: str | None = None
) -> Disputes | Disputed:
    """List disputed pairs, show one, or decide it.

    Args:
        database: The project.
        key: The pair; None: list disputed ones.
        choice: a, b or tie; None: show the pair.
        note: Why.
        name: Who decides; None: the name of the account. Somebody new becomes an adjudicator.

    Raises:
        ConfigError: A setting cannot work.
        DataError: There is no such project or pair, or the person is an annotator.
    """
    if choice is None and (note or name):
        raise ConfigError(
            "--note and --as have no effect without a decision; give a, b or tie after PAIR, or remove them",
            code="no_effect",
            key="--note" if note else "--as",
        )
    if choice is not None and choice not in DECISIONS:
        raise ConfigError(
            f"CHOICE is {choice!r}{suggestion(choice, DECISIONS)} It must be a, b or tie",
            code="unknown_name",
            key="CHOICE",
        )
    with open_project(database) as project:
        if key is None:
            with reading(project.engine) as connection:
                return Disputes(*list_pairs(connection, Filter(open_only=True), limit=SHOWN))
        if choice is not None:
            with writing(project.engine) as connection:
                who = _adjudicator(connection, name or account_name())
                pair_id = _find(connection, key)
                decision: Decision = choice
                adjudicate(connection, who, pair_id, decision, key=secrets.token_hex(16), note=note)
                write_audit(connection, who.name, "adjudicate", pair=key, choice=choice)
        with reading(project.engine) as connection:
            pair_id = _find(connection, key)
            return Disputed(key, read_pair(connection, pair_id), opinions(connection, pair_id), choice)


def _adjudicator(connection: Connection, name: str) -> Person:
    return find_person(connection, name.strip()) or add_person(connection, name, "adjudicator")


def _find(connection: Connection, key: str) -> int:
    """Return the id of a pair that can be decided.

    Raises:
        DataError: There is none with this key.
    """
    wanted = select(pair.c.id).where(pair.c.key == key, pair.c.kind == "task")
    found = connection.execute(wanted).scalar()
    if found is None:
        raise DataError(
            f"there is no pair {key!r} to decide; `tiltlm label adjudicate` lists the disputed ones",
            code="unknown_name",
            key="PAIR",
        )
    return int(found)
