"""Bringing a database to the newest form of its tables.

`tables.py` says what the tables are now; `migrations/versions/` says how each form came from the one before. The
database names its own form in the table `tiltlm_version`. No ini file is needed.
"""

import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from tiltlm.core.errors import DataError
from tiltlm.labeling.store.tables import VERSION_TABLE

FOLDER = Path(__file__).with_name("migrations")
"""What Alembic reads."""
LOCK = 7_160_348_101
"""Names the lock of PostgreSQL under which one process at a time makes or changes the tables."""
_in_this_process = threading.Lock()  # Alembic's `context` and `op` are global


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    return config


def newest_revision() -> str:
    """Return the revision that this version of tiltlm works with."""
    return str(ScriptDirectory.from_config(_config()).get_current_head())


def find_revision(connection: Connection) -> str | None:
    """Return the revision of a database; None if it has no tables at all.

    Raises:
        DataError: It has tables, and they are not those of a labelling project.
    """
    tables = inspect(connection).get_table_names()
    if not tables:
        return None
    if VERSION_TABLE not in tables:
        raise DataError(
            f"the database has other tables ({', '.join(sorted(tables)[:3])}, …); a labelling project needs one of its "
            "own",
            code="not_a_label_database",
            key="database",
        )
    return str(connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar())


def check_known(revision: str) -> None:
    """Require that this version of tiltlm knows a revision.

    Raises:
        DataError: It does not: a newer version wrote it.
    """
    known = [script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()]
    if revision not in known:
        raise DataError(
            f"the database has revision {revision}, and this version of tiltlm knows {', '.join(sorted(known))}. A "
            "newer one made it; install that one",
            code="newer_version",
            key="database",
        )


def lock_tables(connection: Connection) -> None:
    """Let one process at a time make or change the tables. SQLite has one writer anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})


def upgrade(connection: Connection) -> None:
    """Bring the tables to the newest revision.

    Args:
        connection: A transaction that writes, after `lock_tables`. It has all of the change or nothing.
    """
    with _in_this_process:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
