"""The first tables, the triggers that keep `event` and `audit` as they are, and the views that others read."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

IS_OPEN = sa.text("kind = 'task' AND assigned < wanted")

GROWING = ("event", "audit")
"""Tables whose rows are never changed."""

VOTE_ROW = """
CREATE VIEW vote_row AS
SELECT
    event.id AS event_id, pair."key" AS pair_key, pair.kind AS kind, pair.source AS source,
    prompt.content AS prompt, prompt.system AS system, first.content AS a, second.content AS b,
    first.model AS model_a, second.model AS model_b, first.sampling AS sampling_a, second.sampling AS sampling_b,
    pair.answer AS answer, person.name AS annotator, event.is_repeat AS is_repeat, event.choice AS choice,
    event."left" AS "left", event.strength AS strength, event.reason AS reason, event.note AS note,
    event.dwell_ms AS dwell_ms, event.server_time AS server_time, event.guideline_version AS guideline_version,
    event.ui_version AS ui_version, event.is_random AS is_random
FROM assignment
JOIN event ON event.id = assignment.event_id
JOIN pair ON pair.id = event.pair_id
JOIN person ON person.id = event.person_id
JOIN prompt ON prompt.id = pair.prompt_id
JOIN response AS first ON first.id = pair.a_id
JOIN response AS second ON second.id = pair.b_id
"""

ADJUDICATION_ROW = """
CREATE VIEW adjudication_row AS
SELECT
    pair."key" AS pair_key, event.choice AS choice, person.name AS adjudicator, event.note AS note,
    event.server_time AS server_time
FROM event
JOIN pair ON pair.id = event.pair_id
JOIN person ON person.id = event.person_id
WHERE event.id IN (SELECT max(newest.id) FROM event AS newest WHERE newest.kind = 'adjudicate' GROUP BY newest.pair_id)
"""


def upgrade() -> None:
    """Create all of it in an empty database."""
    _create_people()
    _create_contents()
    _create_pairs()
    _create_events()
    _create_assignments()
    for table in GROWING:
        _refuse_changes(table)
    op.execute(VOTE_ROW)
    op.execute(ADJUDICATION_ROW)


def _refuse_changes(table: str) -> None:
    """Refuse that rows of a table are changed or deleted, whoever asks."""
    if op.get_context().dialect.name == "sqlite":
        for action in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{action.lower()} BEFORE {action} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} only grows'); END"
            )
        return
    op.execute(
        f"CREATE FUNCTION {table}_only_grows() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{table} only grows'; END $$"
    )
    op.execute(
        f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {table}_only_grows()"
    )


def _create_people() -> None:
    """Create what does not depend on pairs: the project's people, sessions, guidelines and record."""
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("time", sa.Float(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), server_default="{}", nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "guideline",
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("version", name="pk_guideline"),
    )
    op.create_table(
        "person",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.String(length=12), nullable=False),
        sa.Column("token_sha256", sa.String(length=64), nullable=True),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.CheckConstraint("role IN ('annotator', 'adjudicator', 'admin')", name="ck_person_role"),
        sa.PrimaryKeyConstraint("id", name="pk_person"),
        sa.UniqueConstraint("name", name="uq_person_name"),
        sa.UniqueConstraint("token_sha256", name="uq_person_token_sha256"),
    )
    op.create_table(
        "session",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("person_id", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name="fk_session_person_id_person"),
        sa.PrimaryKeyConstraint("sha256", name="pk_session"),
    )


def _create_contents() -> None:
    """Create the project itself, its prompts and responses."""
    op.create_table(
        "project",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("secret", sa.String(length=64), nullable=False),
        sa.Column("settings", sa.Text(), nullable=False),
        sa.Column("plan", sa.Text(), server_default="{}", nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.CheckConstraint("id = 1", name="ck_project_single"),
        sa.PrimaryKeyConstraint("id", name="pk_project"),
    )
    op.create_table(
        "prompt",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("system", sa.Text(), server_default='""', nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_prompt"),
        sa.UniqueConstraint("sha256", name="uq_prompt_sha256"),
    )
    op.create_table(
        "response",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("prompt_id", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), server_default="", nullable=False),
        sa.Column("sampling", sa.Text(), server_default="{}", nullable=False),
        sa.ForeignKeyConstraint(["prompt_id"], ["prompt.id"], name="fk_response_prompt_id_prompt"),
        sa.PrimaryKeyConstraint("id", name="pk_response"),
        sa.UniqueConstraint("prompt_id", "sha256", name="uq_response_prompt_id_sha256"),
    )


def _create_pairs() -> None:
    """Create the pairs, with an index for each order in which open ones are given."""
    op.create_table(
        "pair",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("prompt_id", sa.Integer(), nullable=False),
        sa.Column("a_id", sa.Integer(), nullable=False),
        sa.Column("b_id", sa.Integer(), nullable=False),
        sa.Column("source", sa.Text(), server_default="", nullable=False),
        sa.Column("kind", sa.String(length=12), nullable=False),
        sa.Column("answer", sa.String(length=3), nullable=True),
        sa.Column("explanation", sa.Text(), server_default="", nullable=False),
        sa.Column("wanted", sa.Integer(), nullable=True),
        sa.Column("assigned", sa.Integer(), server_default="0", nullable=False),
        sa.Column("votes_a", sa.Integer(), server_default="0", nullable=False),
        sa.Column("votes_b", sa.Integer(), server_default="0", nullable=False),
        sa.Column("votes_tie", sa.Integer(), server_default="0", nullable=False),
        sa.Column("dispute", sa.Float(), server_default="0", nullable=False),
        sa.Column("priority", sa.Float(), server_default="0", nullable=False),
        sa.Column("is_random", sa.Boolean(), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.CheckConstraint("kind IN ('task', 'gold', 'calibration')", name="ck_pair_kind"),
        sa.CheckConstraint("a_id <> b_id", name="ck_pair_two_responses"),
        sa.CheckConstraint("assigned >= 0 AND (wanted IS NULL OR assigned <= wanted)", name="ck_pair_overlap"),
        sa.ForeignKeyConstraint(["a_id"], ["response.id"], name="fk_pair_a_id_response"),
        sa.ForeignKeyConstraint(["b_id"], ["response.id"], name="fk_pair_b_id_response"),
        sa.ForeignKeyConstraint(["prompt_id"], ["prompt.id"], name="fk_pair_prompt_id_prompt"),
        sa.PrimaryKeyConstraint("id", name="pk_pair"),
        sa.UniqueConstraint("key", name="uq_pair_key"),
    )
    op.create_index(
        "ix_pair_known",
        "pair",
        ["kind", "place"],
        sqlite_where=sa.text("kind != 'task'"),
        postgresql_where=sa.text("kind != 'task'"),
    )
    op.create_index(
        "ix_pair_open_disputed",
        "pair",
        [sa.literal_column("dispute DESC"), "assigned", "place"],
        sqlite_where=IS_OPEN,
        postgresql_where=IS_OPEN,
    )
    op.create_index(
        "ix_pair_open_priority", "pair", ["priority", "place"], sqlite_where=IS_OPEN, postgresql_where=IS_OPEN
    )
    op.create_index(
        "ix_pair_open_random",
        "pair",
        ["assigned", sa.literal_column("dispute DESC"), "place", "wanted", "kind"],
        sqlite_where=IS_OPEN,
        postgresql_where=IS_OPEN,
    )


def _create_events() -> None:
    """Create the votes, undos and adjudications."""
    op.create_table(
        "event",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("pair_id", sa.Integer(), nullable=False),
        sa.Column("person_id", sa.Integer(), nullable=False),
        sa.Column("is_repeat", sa.Boolean(), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("choice", sa.String(length=8), nullable=True),
        sa.Column("left", sa.String(length=1), nullable=True),
        sa.Column("strength", sa.Integer(), nullable=True),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("note", sa.Text(), server_default="", nullable=False),
        sa.Column("dwell_ms", sa.Integer(), nullable=True),
        sa.Column("client_time", sa.Float(), nullable=True),
        sa.Column("server_time", sa.Float(), nullable=False),
        sa.Column("ui_version", sa.Text(), server_default="", nullable=False),
        sa.Column("guideline_version", sa.Integer(), nullable=True),
        sa.Column("is_random", sa.Boolean(), server_default="0", nullable=False),
        sa.Column("undoes", sa.Integer(), nullable=True),
        sa.CheckConstraint("choice IN ('a', 'b', 'tie', 'both_bad', 'skip')", name="ck_event_choice"),
        sa.CheckConstraint("kind IN ('vote', 'undo', 'adjudicate')", name="ck_event_kind"),
        sa.CheckConstraint("strength BETWEEN 1 AND 3", name="ck_event_strength"),
        sa.ForeignKeyConstraint(["pair_id"], ["pair.id"], name="fk_event_pair_id_pair"),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name="fk_event_person_id_person"),
        sa.ForeignKeyConstraint(["undoes"], ["event.id"], name="fk_event_undoes_event"),
        sa.PrimaryKeyConstraint("id", name="pk_event"),
        sa.UniqueConstraint("person_id", "key", name="uq_event_person_id_key"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_event_pair_id_kind", "event", ["pair_id", "kind"])


def _create_assignments() -> None:
    """Create who has which pair."""
    op.create_table(
        "assignment",
        sa.Column("pair_id", sa.Integer(), nullable=False),
        sa.Column("person_id", sa.Integer(), nullable=False),
        sa.Column("is_repeat", sa.Boolean(), nullable=False),
        sa.Column("ticket", sa.String(length=32), nullable=False),
        sa.Column("given", sa.Integer(), nullable=False),
        sa.Column("given_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.Column("is_random", sa.Boolean(), nullable=False),
        sa.Column("event_id", sa.Integer(), nullable=True),
        sa.Column("is_skipped", sa.Boolean(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(["event_id"], ["event.id"], name="fk_assignment_event_id_event"),
        sa.ForeignKeyConstraint(["pair_id"], ["pair.id"], name="fk_assignment_pair_id_pair"),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name="fk_assignment_person_id_person"),
        sa.PrimaryKeyConstraint("pair_id", "person_id", "is_repeat", name="pk_assignment"),
        sa.UniqueConstraint("ticket", name="uq_assignment_ticket"),
    )
    op.create_index(
        "ix_assignment_held",
        "assignment",
        ["expires_at"],
        sqlite_where=sa.text("event_id IS NULL"),
        postgresql_where=sa.text("event_id IS NULL"),
    )
    op.create_index("ix_assignment_person_id_event_id", "assignment", ["person_id", "event_id"])
    op.create_index("ix_assignment_person_id_given", "assignment", ["person_id", "given"])
    # ### end Alembic commands ###
