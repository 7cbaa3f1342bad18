"""The record of what was done to a project: invitations, guidelines, adjudications, exports."""

import json
from typing import Any

from sqlalchemy import Connection, insert

from tiltlm.labeling.store.database import now
from tiltlm.labeling.store.tables import audit

COMMAND_LINE = "command line"


def write_audit(connection: Connection, actor: str, action: str, **detail: Any) -> None:
    """Add a line to the record, which only grows.

    Args:
        connection: A transaction that writes.
        actor: Name of a person, or `COMMAND_LINE`.
        action: What was done, such as `invite`.
        **detail: Plain values. Never a token or another secret.
    """
    line = {"time": now(), "actor": actor, "action": action, "detail": json.dumps(detail, sort_keys=True)}
    connection.execute(insert(audit).values(line))
