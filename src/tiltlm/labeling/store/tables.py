"""The tables of a project.

`event` and `audit` only grow: triggers refuse any change of a row. A vote, an undo and an adjudication are events.
`assignment` says who has which pair, and which event is the vote that counts now; `pair` counts its assignments, and a
constraint of the database keeps that number within what the pair wants. So overlap cannot be exceeded, whatever
processes do.

Contents (prompts and responses) are JSON in ASCII: any text that JSON can hold comes back as it was, in both databases.
Times are seconds since 1970 as the server's clock has them.
"""

from typing import Any

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    ColumnElement,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    and_,
    literal_column,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

VERSION_TABLE = "tiltlm_version"
"""Alembic's table: which revision of the tables a database has."""

project = Table(
    "project",
    metadata,
    Column("id", Integer, primary_key=True),  # always 1
    Column("secret", String(64), nullable=False),  # 32 random bytes in hex: sides, order of what a person sees
    Column("settings", Text, nullable=False),  # JSON of ProjectSettings
    Column("plan", Text, nullable=False, server_default="{}"),  # JSON: where the pairs came from, compared systems
    Column("created_at", Float, nullable=False),
    CheckConstraint("id = 1", name="single"),
)

guideline = Table(
    "guideline",
    metadata,
    Column("version", Integer, primary_key=True),  # 1, 2, ...
    Column("text", Text, nullable=False),  # Markdown
    Column("created_at", Float, nullable=False),
)

prompt = Table(
    "prompt",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("sha256", String(64), nullable=False, unique=True),
    Column("content", Text, nullable=False),  # JSON: text, or turns
    Column("system", Text, nullable=False, server_default='""'),  # JSON: text
)

response = Table(
    "response",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("prompt_id", ForeignKey("prompt.id"), nullable=False),
    Column("sha256", String(64), nullable=False),  # of content, model and sampling
    Column("content", Text, nullable=False),  # JSON: text, or turns
    Column("model", Text, nullable=False, server_default=""),  # who wrote it; never shown to annotators
    Column("sampling", Text, nullable=False, server_default="{}"),  # JSON: temperature, seed, ...
    UniqueConstraint("prompt_id", "sha256"),
)

pair = Table(
    "pair",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("key", Text, nullable=False, unique=True),  # id of the row it came from, or a digest of its content
    Column("prompt_id", ForeignKey("prompt.id"), nullable=False),
    Column("a_id", ForeignKey("response.id"), nullable=False),
    Column("b_id", ForeignKey("response.id"), nullable=False),
    Column("source", Text, nullable=False, server_default=""),
    Column("kind", String(12), nullable=False),  # task | gold | calibration
    Column("answer", String(3)),  # gold and calibration: a | b | tie
    Column("explanation", Text, nullable=False, server_default=""),  # shown in calibration, after the vote
    Column("wanted", Integer),  # votes that it shall get; NULL for gold and calibration: one of everybody
    Column("assigned", Integer, nullable=False, server_default="0"),  # assignments that count towards `wanted`
    Column("votes_a", Integer, nullable=False, server_default="0"),
    Column("votes_b", Integer, nullable=False, server_default="0"),
    Column("votes_tie", Integer, nullable=False, server_default="0"),  # both bad counts here
    Column("dispute", Float, nullable=False, server_default="0"),  # 0: all votes equal, up to 1: evenly split
    Column("priority", Float, nullable=False, server_default="0"),  # lower is earlier: uncertain and diverse
    Column("is_random", Boolean, nullable=False),  # in the random slice
    Column("place", Integer, nullable=False),  # random order, from the seed and the key
    CheckConstraint("assigned >= 0 AND (wanted IS NULL OR assigned <= wanted)", name="overlap"),
    CheckConstraint("kind IN ('task', 'gold', 'calibration')", name="kind"),
    CheckConstraint("a_id <> b_id", name="two_responses"),
)

IS_OPEN = and_(pair.c.kind == literal_column("'task'"), pair.c.assigned < pair.c.wanted)
"""A task that wants more votes. Written with constants, so that the indexes of open tasks serve the queries."""
IS_KNOWN = pair.c.kind != literal_column("'task'")
"""A pair with a known answer."""


def _open_index(name: str, *columns: ColumnElement[Any]) -> None:
    """Add an index of the open tasks in one order."""
    Index(f"ix_pair_open_{name}", *columns, sqlite_where=IS_OPEN, postgresql_where=IS_OPEN)


# The last two have all that counting the open tasks needs. Were `kind` first, SQLite would sort by hand.
_open_index("random", pair.c.assigned, pair.c.dispute.desc(), pair.c.place, pair.c.wanted, pair.c.kind)
_open_index("disputed", pair.c.dispute.desc(), pair.c.assigned, pair.c.place)
_open_index("priority", pair.c.priority, pair.c.place)
Index("ix_pair_known", pair.c.kind, pair.c.place, sqlite_where=IS_KNOWN, postgresql_where=IS_KNOWN)

person = Table(
    "person",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("role", String(12), nullable=False),  # annotator | adjudicator | admin
    Column("token_sha256", String(64), unique=True),  # NULL: no link
    Column("is_active", Boolean, nullable=False),
    Column("created_at", Float, nullable=False),
    CheckConstraint("role IN ('annotator', 'adjudicator', 'admin')", name="role"),
)

session = Table(
    "session",
    metadata,
    Column("sha256", String(64), primary_key=True),  # of the cookie
    Column("person_id", ForeignKey("person.id"), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
)

event = Table(
    "event",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("kind", String(10), nullable=False),  # vote | undo | adjudicate
    Column("pair_id", ForeignKey("pair.id"), nullable=False),
    Column("person_id", ForeignKey("person.id"), nullable=False),
    Column("is_repeat", Boolean, nullable=False),
    Column("key", String(64), nullable=False),  # of the request: the same request again is the same event
    Column("choice", String(8)),  # a | b | tie | both_bad | skip; NULL of an undo
    Column("left", String(1)),  # a | b: the response that stood on the left
    Column("strength", Integer),  # 1 to 3
    Column("reason", Text, nullable=False, server_default=""),  # of a skip
    Column("note", Text, nullable=False, server_default=""),
    Column("dwell_ms", Integer),  # from shown to voted, as the browser measured
    Column("client_time", Float),
    Column("server_time", Float, nullable=False),
    Column("ui_version", Text, nullable=False, server_default=""),
    Column("guideline_version", Integer),
    Column("is_random", Boolean, nullable=False, server_default="0"),  # was chosen from the random slice, in its order
    Column("undoes", ForeignKey("event.id")),
    UniqueConstraint("person_id", "key"),
    CheckConstraint("kind IN ('vote', 'undo', 'adjudicate')", name="kind"),
    CheckConstraint("choice IN ('a', 'b', 'tie', 'both_bad', 'skip')", name="choice"),
    CheckConstraint("strength BETWEEN 1 AND 3", name="strength"),
    Index(None, "pair_id", "kind"),
    sqlite_autoincrement=True,
)

assignment = Table(
    "assignment",
    metadata,
    Column("pair_id", ForeignKey("pair.id"), primary_key=True),
    Column("person_id", ForeignKey("person.id"), primary_key=True),
    Column("is_repeat", Boolean, primary_key=True),
    Column("ticket", String(32), nullable=False, unique=True),  # how the browser names it
    Column("given", Integer, nullable=False),  # how many this person had been given before
    Column("given_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),  # of a pair without a vote
    Column("is_random", Boolean, nullable=False),
    Column("event_id", ForeignKey("event.id")),  # the vote that counts; NULL: not yet
    Column("is_skipped", Boolean, nullable=False, server_default="0"),  # does not count towards `wanted`
    Index(None, "person_id", "event_id"),
    Index(None, "person_id", "given"),
)

IS_HELD = assignment.c.event_id.is_(None)
"""Given, and neither voted on nor skipped."""
Index("ix_assignment_held", assignment.c.expires_at, sqlite_where=IS_HELD, postgresql_where=IS_HELD)

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("time", Float, nullable=False),
    Column("actor", Text, nullable=False),  # name of a person, or `command line`
    Column("action", Text, nullable=False),
    Column("detail", Text, nullable=False, server_default="{}"),  # JSON
    sqlite_autoincrement=True,
)
