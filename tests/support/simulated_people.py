"""People of a labelling project who are simulated: they take pairs from the queue and vote, as the app lets them."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

from tiltlm.labeling.queue.assignments import take
from tiltlm.labeling.queue.ballots import Ballot, vote
from tiltlm.labeling.queue.contents import Contents, raw_text, read_contents
from tiltlm.labeling.store.database import writing
from tiltlm.labeling.store.people import add_person
from tiltlm.labeling.store.projects import Project

Decide = Callable[[str, Contents], str]
"""Name of the person and the shown pair → left, right, tie, both_bad or skip."""


def prefers(rank: Callable[[str], Any]) -> Decide:
    """Return people who choose the response with the higher rank; equal ranks are a tie."""

    def decide(name: str, shown: Contents) -> str:
        left, right = rank(raw_text(shown.left)), rank(raw_text(shown.right))
        return "tie" if left == right else "left" if left > right else "right"

    return decide


def wavering(rank: Callable[[str], Any], share: float) -> Decide:
    """Return people who choose as `prefers` does, and the other response for a share of pairs, decided by a hash."""
    steady = prefers(rank)

    def decide(name: str, shown: Contents) -> str:
        choice = steady(name, shown)
        texts = "\0".join([name, *sorted((raw_text(shown.left), raw_text(shown.right)))])
        draw = int.from_bytes(hashlib.sha256(texts.encode()).digest()[:4], "big") / 2**32
        return {"left": "right", "right": "left"}.get(choice, choice) if draw < share else choice

    return decide


def vote_all(project: Project, names: Sequence[str], decide: Decide, **ballot: Any) -> int:
    """Let people vote in turns until nothing is left for any of them, and return the number of votes."""
    with writing(project.engine) as connection:
        people = [add_person(connection, name) for name in names]
    count, busy = 0, list(people)
    while busy:
        for who in list(busy):
            with writing(project.engine) as connection:
                given = take(connection, project, who)
                if not given:
                    busy.remove(who)
                    continue
                shown = read_contents(connection, given[:1])[0]
                choice = decide(who.name, shown)
                more = {"reason": "cannot judge", **ballot} if choice == "skip" else ballot
                vote(connection, project, who, Ballot(given[0].ticket, uuid4().hex, choice, **more))  # type: ignore[arg-type]
                count += 1
    return count
