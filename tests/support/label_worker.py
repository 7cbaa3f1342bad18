"""A person who votes in a process of their own: `python label_worker.py DATABASE NAME [FILE]`.

Each request is one transaction, a vote and the next pairs, as in the app. With FILE, every ballot is written there
before it is sent, so whoever kills this process can send it again. Prints how many votes were counted.
"""

import json
import sys
import time

from tiltlm.labeling.queue.assignments import Assignment, num_left, take
from tiltlm.labeling.queue.ballots import Ballot, vote
from tiltlm.labeling.store.database import writing
from tiltlm.labeling.store.people import find_person
from tiltlm.labeling.store.projects import open_project


def main(database: str, name: str, file: str | None = None) -> int:
    """Vote until nothing is left."""
    num = 0
    with open_project(database) as project:
        with writing(project.engine) as connection:
            who = find_person(connection, name)
            assert who is not None
            found = take(connection, project, who)
        while True:
            if not found:
                with writing(project.engine) as connection:
                    found = take(connection, project, who)
                    if not found and num_left(connection, who) == 0:
                        return num
                time.sleep(0.001 if found else 0.01)  # others hold the last pairs at this moment
                continue
            ballot = ballot_of(found[0], num)
            if file is not None:
                with open(file, "a", encoding="utf-8") as sent:
                    sent.write(json.dumps([ballot.ticket, ballot.key]) + "\n")
            with writing(project.engine) as connection:
                num += vote(connection, project, who, ballot).is_new
                found = take(connection, project, who)


def ballot_of(given: Assignment, number: int) -> Ballot:
    """Return a vote whose key nobody else has."""
    return Ballot(given.ticket, f"{given.ticket[:20]} {number}", "left" if number % 3 else "tie")


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
