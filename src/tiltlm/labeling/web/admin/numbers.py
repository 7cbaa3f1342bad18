"""The numbers of the app's project, worked out again only when something changed."""

import threading

from tiltlm.labeling.monitor.facts import read_facts, state_of
from tiltlm.labeling.monitor.status import Status, measure_status
from tiltlm.labeling.store.database import reading
from tiltlm.labeling.store.projects import Project


class Numbers:
    """The newest numbers of a project."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._lock = threading.Lock()
        self._state: tuple[int, ...] | None = None
        self._status: Status | None = None

    def read(self) -> Status:
        """Return the numbers as they are now."""
        with self._lock, reading(self._project.engine) as connection:
            state = state_of(connection)
            if self._status is None or state != self._state:
                self._status = measure_status(read_facts(connection, self._project.settings))
                self._state = state
            return self._status
