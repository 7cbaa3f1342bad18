"""A labelling project in which people voted, through the queue as in the app."""

import itertools
from collections.abc import Callable

from tiltlm.labeling.queue.assignments import Assignment, take
from tiltlm.labeling.queue.ballots import Ballot, vote
from tiltlm.labeling.store.database import writing
from tiltlm.labeling.store.people import Person
from tiltlm.labeling.store.projects import Project

NUMBERS = itertools.count()


def cast(
    project: Project, who: Person, choose: Callable[[Assignment], dict[str, object]], *, limit: int | None = None
) -> int:
    """Let a person vote until nothing is left, or `limit` times, and return how many votes that were.

    Args:
        project: The project.
        who: The person.
        choose: Returns what a ballot says about a pair: `choice` as a or b or as the person sees it, `note`, ...
        limit: Most votes.
    """
    for num in itertools.count():
        if num == limit:
            return num
        with writing(project.engine) as connection:
            given = take(connection, project, who)
            if not given:
                return num
            said = choose(given[0])
            if said["choice"] in ("a", "b"):
                said["choice"] = "left" if said["choice"] == given[0].left else "right"
            vote(connection, project, who, Ballot(given[0].ticket, f"key-{next(NUMBERS):08}", **said))
    raise AssertionError("numbers do not end")
