"""People as a judge: they compare pairs in the labelling app, and their votes are the verdicts.

All pairs of a call are added to a labelling project first, each once, by its content. The app decides which response
stands on the left for whom, so the two orders of a pair give verdicts that mirror each other. The project keeps the
votes; the cache of judgements does not. So a call that was stopped goes on where it was when it is repeated.
"""

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import func, select

from tiltlm.core.errors import ConfigError, RunError
from tiltlm.data.labels.project_votes import read_project
from tiltlm.data.labels.votes import NO_CHOICE, TIE, A, B, Votes
from tiltlm.judging.digests import digest_of
from tiltlm.judging.judge import Comparer, Outcome, PairItem, Role, Verdict
from tiltlm.judging.judge_settings import JudgeSettings
from tiltlm.labeling.project import ProjectSettings
from tiltlm.labeling.store.database import reading, writing
from tiltlm.labeling.store.pairs import NewPair, add_pairs, content_key
from tiltlm.labeling.store.projects import Project, create_project, has_project, open_project
from tiltlm.labeling.store.tables import assignment, pair, person
from tiltlm.labeling.store.votes import read_adjudications, read_vote_rows
from tiltlm.recipes.labeling.extra import require_label
from tiltlm.recipes.labeling.pairs.system_text import split_system

if TYPE_CHECKING:  # the app is imported when it is served
    from tiltlm.recipes.labeling.serving import Place

log = logging.getLogger(__name__)

Wait = Literal["serve", "poll", "stop"]
SECONDS = 1.0
"""Between two looks at the votes."""
SECONDS_BETWEEN_LINES = 60.0
"""Least time between two lines of the log that say how far people are."""


class People(Comparer):
    """People who vote in the labelling app."""

    keeps_judgements = True

    def __init__(
        self,
        project: Project,
        *,
        role: Role = "held_out",
        votes: int = 3,
        wait: Wait = "serve",
        names: Sequence[str] = (),
        place: "Place",
    ) -> None:
        """Judge by the votes of a project.

        Args:
            project: The project.
            role: Role of the judge.
            votes: Votes on each pair.
            wait: What happens until people have voted.
            names: People who get a link.
            place: Where the app listens.
        """
        self.project = project
        self.wait, self.names, self.place = wait, tuple(names), place
        self.name, self.role = "people", role
        self.digest = digest_of("people", project=project.secret.hex(), votes=votes)

    def compare(self, pairs: Iterable[PairItem]) -> Iterator[Verdict]:
        """Yield one verdict for each pair, in order, when people have voted on all of them.

        Raises:
            RunError: Votes are missing, and the judge is set to stop then.
        """
        items = list(pairs)
        new = {self._key(item): item for item in items if item.a != item.b}
        with ExitStack() as stack:
            add_missing(self.project, new)
            waiting = find_waiting(self.project, new)
            if waiting and self.wait == "stop":
                raise self._stopped(len(waiting), len(new))
            if waiting and self.wait == "serve":
                stack.enter_context(self._served())
            last = 0.0
            while waiting:
                if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
                    last = time.monotonic()
                    log.info("people: %d of %d pairs have their votes", len(new) - len(waiting), len(new))
                time.sleep(SECONDS)
                waiting = find_waiting(self.project, new)
        answers = find_answers(self.project, new)
        for item in items:
            yield verdict_of(item, answers.get(self._key(item)))

    @staticmethod
    def _key(item: PairItem) -> str:
        prompt, system = split_system(item.prompt)
        return content_key(prompt, item.a, item.b, system)

    def _stopped(self, num: int, total: int) -> RunError:
        return RunError(
            f"{num} of {total} pairs wait for votes of people in {self.project.name}. Serve the app "
            f"(tiltlm label serve --database {self.project.name}), and run this command again when they have voted",
            code="waiting_for_people",
            key="judge.wait",
        )

    @contextmanager
    def _served(self) -> Iterator[None]:
        """Serve the app in this process, and print the links on stderr."""
        from tiltlm.labeling.web.serving import listen, running
        from tiltlm.recipes.labeling.serving import app_of, links

        place = self.place
        with _of_the_judge():
            free = listen(place.host, place.port)
        with free:
            port = free.getsockname()[1]
        with app_of(self.project, place, port) as app, running(app, place.host, port):
            base = place.base(port)
            lines = [f"people are asked at {base}; Ctrl-C stops, votes are kept, and the same command goes on"]
            lines += [*place.notes(), *(f"{name}  {link}" for name, link in links(self.project, self.names, base))]
            print("\n".join(lines), file=sys.stderr, flush=True)
            yield


@contextmanager
def _of_the_judge() -> Iterator[None]:
    """Name the settings of the judge in errors that name options of `tiltlm label serve`."""
    try:
        yield
    except ConfigError as error:
        key = str(error.key).replace("--", "judge.")
        raise ConfigError(str(error).replace("--", "judge."), code=error.code, key=key) from error


def people(settings: JudgeSettings, role: Role) -> People:
    """Make the judge from its settings. The project is made if the database is new.

    Raises:
        ConfigError: The project gives pairs another number of votes, or a setting has no effect.
        DataError: The database cannot be used.
    """
    require_label()
    from tiltlm.labeling.web.serving import listen
    from tiltlm.recipes.labeling.serving import Place

    if settings.votes < 1:
        raise ConfigError(
            f"judge.votes is {settings.votes}; it must be at least 1", code="not_positive", key="judge.votes"
        )
    if settings.wait != "serve":
        unused = ["names", "host", "port", "address"]
        settings.refuse(unused, f"judge.wait is {settings.wait}, so this process serves no app")
    with _of_the_judge():
        place = Place(settings.host, settings.port, settings.address)
        if settings.wait == "serve":
            listen(place.host, place.port).close()  # refuse a port in use before anything takes time
    database = settings.database or "label.db"
    if has_project(database):
        project = open_project(database)
        if project.settings.overlap != settings.votes:
            project.close()
            raise ConfigError(
                f"judge.votes is {settings.votes}, and {project.name} gives each pair {project.settings.overlap}; set "
                f"judge.votes={project.settings.overlap}, or change the project: tiltlm label serve --database "
                f"{project.name} --overlap {settings.votes}",
                code="conflict",
                key="judge.votes",
            )
    else:
        project = create_project(database, ProjectSettings(overlap=settings.votes, extra=0))
    return People(
        project,
        role=role,
        votes=settings.votes,
        wait=settings.wait,
        names=settings.names,
        place=place,
    )


def add_missing(project: Project, new: Mapping[str, PairItem]) -> None:
    """Add pairs that a project does not have yet, in the order of their keys."""
    with reading(project.engine) as connection:
        known = set(connection.execute(select(pair.c.key)).scalars())
    missing = sorted(set(new) - known)
    if not missing:
        return
    with writing(project.engine) as connection:
        add_pairs(connection, project.settings, (_new_pair(key, new[key]) for key in missing))


def _new_pair(key: str, item: PairItem) -> NewPair:
    prompt, system = split_system(item.prompt)
    texts, models = (item.a, item.b), item.models
    if texts[1] < texts[0]:  # which one is called a depends on the texts alone
        texts, models = texts[::-1], models[::-1]
    return NewPair(prompt, *texts, key=key, system=system, source=str(item.row.get("source") or ""), models=models)


@dataclass(frozen=True)
class Answer:
    """What people said about a pair."""

    a: str
    """The response that the project calls a."""
    p: float | None
    """P(a better): the decision of an adjudicator, or the share of the votes; None without votes."""
    counts: tuple[int, int, int]
    """Votes for a, for b, and for neither."""
    num_bad: int
    """Votes that call both bad."""


def find_waiting(project: Project, keys: Iterable[str]) -> frozenset[str]:
    """Return the keys of pairs that still want votes which somebody can give.

    A pair is done when it has the votes that it wants, when it was adjudicated, or when every active annotator has
    voted on it or skipped it.
    """
    wanted = set(keys)
    with reading(project.engine) as connection:
        decided = {row["pair_key"] for row in read_adjudications(connection)}
        columns = (pair.c.key, pair.c.wanted, pair.c.votes_a + pair.c.votes_b + pair.c.votes_tie)
        counted = {key: (want, num) for key, want, num in connection.execute(select(*columns)) if key in wanted}
        seen_by = _seen_by(connection)
        active = select(func.count()).where(person.c.role == "annotator", person.c.is_active).select_from(person)
        num_people = int(connection.execute(active).scalar_one())
    return frozenset(
        key
        for key, (want, num) in counted.items()
        if num < want and key not in decided and not (num_people and seen_by.get(key, 0) >= num_people)
    )


def find_answers(project: Project, keys: Iterable[str]) -> dict[str, Answer]:
    """Return what people said about pairs; those without a vote are left out."""
    wanted = set(keys)
    with reading(project.engine) as connection:
        rows = [row for row in read_vote_rows(connection) if row["pair_key"] in wanted]
        return _answers(read_project(rows, read_adjudications(connection)))


def _seen_by(connection: Any) -> dict[str, int]:
    """Return key of a pair → active annotators who voted on it or skipped it."""
    query = (
        select(pair.c.key, func.count())
        .select_from(assignment)
        .join(pair, pair.c.id == assignment.c.pair_id)
        .join(person, person.c.id == assignment.c.person_id)
        .where(assignment.c.event_id.is_not(None), ~assignment.c.is_repeat, person.c.is_active)
        .where(person.c.role == "annotator")
        .group_by(pair.c.key)
    )
    return {str(key): int(num) for key, num in connection.execute(query)}


def _answers(votes: Votes) -> dict[str, Answer]:
    counts = votes.counts().astype(int)
    bad = votes.counts(votes.is_bad.astype(float)).astype(int)[:, TIE]
    found = {}
    for k, item in enumerate(votes.items):
        a, b, tie = (int(num) for num in counts[k])
        share = (a + tie / 2) / (a + b + tie) if a + b + tie else None
        p = share if item.decision == NO_CHOICE else {A: 1.0, B: 0.0, TIE: 0.5}[item.decision]
        is_decided = item.decision != NO_CHOICE
        found[item.id] = Answer(item.a, p, (a, b, tie), 0 if is_decided else int(bad[k]))
    return found


def verdict_of(item: PairItem, answer: Answer | None) -> Verdict:
    """Return what people said, as a verdict on two responses in this order."""
    if item.a == item.b:
        return Verdict("ab", "tie", p_left=0.5, mode="votes", model="people")
    if answer is None or answer.p is None:
        return Verdict("ab", "error", error="everybody skipped this pair", mode="votes", model="people")
    is_mirrored = answer.a != item.a
    a, b, tie = answer.counts
    first, second = (b, a) if is_mirrored else (a, b)
    raw = f"{first} votes for the first, {second} for the second, {tie} for neither"
    if 2 * answer.num_bad > a + b + tie:
        return Verdict("ab", "both_bad", raw=raw, mode="votes", model="people")
    p = 1 - answer.p if is_mirrored else answer.p
    outcome: Outcome = "left" if p > 0.5 else "right" if p < 0.5 else "tie"
    return Verdict("ab", outcome, p_left=p, raw=raw, mode="votes", model="people")
