"""Everything that can happen to a queue, in any order: what must hold holds after every step."""

import dataclasses
import shutil
import tempfile

import pytest
from hypothesis import settings as profile
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import event as listening
from sqlalchemy import select

from support.label_databases import check_queue, new_project
from tiltlm.labeling.project import SELECTIONS
from tiltlm.labeling.queue.assignments import AHEAD, Refused, num_left, take
from tiltlm.labeling.queue.ballots import CHOICES, Ballot, adjudicate, undo, vote
from tiltlm.labeling.store.database import reading, writing
from tiltlm.labeling.store.people import add_person, new_token, revoke
from tiltlm.labeling.store.projects import Project, change_settings
from tiltlm.labeling.store.tables import assignment, pair

NAMES = ("ann", "bob", "cho", "dan")
WHO = st.integers(0, len(NAMES) - 1)


class Clock:
    """A clock that anybody may set."""

    time = 1e9

    def __call__(self) -> float:
        return self.time


class Queue(RuleBasedStateMachine):
    """A project, its people, and what they were told."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp()
        self.clock = Clock()
        self.ballots: list[tuple[int, Ballot]] = []
        self.undos: list[tuple[int, str]] = []
        self.decisions = 0
        self.tickets: list[list[str]] = [[] for _ in NAMES]
        self.numbers = 0
        self.project: Project

    def teardown(self) -> None:
        self.finish()
        self.project.close()
        shutil.rmtree(self.folder)

    @initialize(
        num=st.integers(1, 6),
        overlap=st.integers(1, 3),
        extra=st.integers(0, 2),
        gap=st.integers(0, 3),
        lessons=st.integers(0, 2),
        select=st.sampled_from(SELECTIONS),
    )
    def start(self, num, overlap, extra, gap, lessons, select) -> None:
        own = {"overlap": overlap, "extra": extra, "repeat_gap": gap, "calibration": lessons, "select": select}
        shares = {"gold_share": 0.2, "repeat_share": 0.3, "random_share": 0.3}
        project, self.people = new_project(f"{self.folder}/label.db", num, names=NAMES, gold=1, **own, **shares)
        self.project = dataclasses.replace(project, clock=self.clock)
        listening.listen(self.project.engine, "connect", lambda c, _: c.execute("PRAGMA synchronous=OFF"))
        self.project.engine.dispose()  # the connections above wait for the disk
        with writing(self.project.engine) as connection:
            self.boss = add_person(connection, "boss", "admin")

    def key(self) -> str:
        self.numbers += 1
        return f"key {self.numbers}"

    def ask(self, action, k: int, *args):
        """Return what a person gets, and the code of the error."""
        try:
            with writing(self.project.engine) as connection:
                return action(connection, self.project, self.people[k], *args), None
        except Refused as error:
            return None, error.code

    @rule(k=WHO)
    def takes(self, k) -> None:
        before = self.rows()
        found, code = self.ask(take, k)
        assert code == (None if self.is_active(k) else "signed_out")
        if found is None:
            return
        assert len(found) <= AHEAD
        assert all(one.event_id is None for one in found)
        self.tickets[k] += [one.ticket for one in found if one.ticket not in self.tickets[k]]
        self.check_order(k, found, before)
        if not found:
            with reading(self.project.engine) as connection:
                assert num_left(connection, self.people[k]) == 0

    def check_order(self, k, found, before) -> None:
        """Calibration comes first, and a repeat comes after the gap."""
        who, now_there = self.people[k].id, self.rows()
        seen = {row.pair_id for row in before.values() if row.person_id == who}
        lessons = {row.id for row in self.pairs() if row.kind == "calibration"}
        for one in found:
            if one.ticket not in before:
                assert one.kind == "calibration" or lessons <= seen
                seen.add(one.pair_id)
            if one.ticket not in before and one.is_repeat:
                own = [
                    row for row in now_there.values() if row.person_id == who and row.event_id and not row.is_skipped
                ]
                (original,) = [row for row in own if row.pair_id == one.pair_id]
                later = sum(row.event_id > original.event_id for row in own)
                assert later >= self.project.settings.repeat_gap

    @rule(k=WHO, choice=st.sampled_from(CHOICES), which=st.integers(0, 10**6))
    def votes(self, k, choice, which) -> None:
        if not self.tickets[k]:
            return
        # Mostly the newest ones, as in the app, and sometimes one of long ago.
        ticket = self.tickets[k][-1 - which % min(len(self.tickets[k]), AHEAD if which % 3 else 10**6)]
        self.send(k, Ballot(ticket, self.key(), choice, reason="cannot judge", note="n"))

    def send(self, k: int, ballot: Ballot) -> None:
        row = self.rows().get(ballot.ticket)
        expected = "signed_out" if not self.is_active(k) else "gone" if row is None or row.person_id != k + 1 else None
        expected = expected or ("voted" if row.event_id is not None else None)
        counted, code = self.ask(vote, k, ballot)
        assert code == expected
        if counted is None:
            return
        assert counted.is_new
        assert (counted.is_right is None) == (counted.assignment.kind != "calibration")
        self.ballots.append((k, ballot))

    @rule(k=WHO, other=WHO, choice=st.sampled_from(CHOICES))
    def votes_for_another(self, k, other, choice) -> None:
        if k != other and self.tickets[other]:
            _, code = self.ask(vote, k, Ballot(self.tickets[other][-1], self.key(), choice))
            assert code == ("gone" if self.is_active(k) else "signed_out")

    @rule(which=st.integers(0, 10**6), choice=st.sampled_from(CHOICES))
    def sends_a_vote_again(self, which, choice) -> None:
        if not self.ballots:
            return
        k, ballot = self.ballots[which % len(self.ballots)]
        again, code = self.ask(vote, k, dataclasses.replace(ballot, choice=choice))
        assert code in ((None, "gone") if self.is_active(k) else ("signed_out",))
        if again is not None:
            assert not again.is_new
            left = again.assignment.left
            sides = {"left": left, "right": "b" if left == "a" else "a"}
            assert again.choice == sides.get(ballot.choice, ballot.choice)

    @rule(k=WHO)
    def undoes(self, k) -> None:
        live = [row for row in self.rows().values() if row.person_id == k + 1 and row.event_id is not None]
        key = self.key()
        newest = max(live, key=lambda row: row.event_id, default=None)
        full = {one.id for one in self.pairs() if one.wanted is not None and one.assigned >= one.wanted}
        is_late = newest is not None and newest.is_skipped and not newest.is_repeat and newest.pair_id in full
        found, code = self.ask(undo, k, key)
        expected = "nothing_to_undo" if newest is None else "gone" if is_late else None
        assert code == (expected if self.is_active(k) else "signed_out")
        if found is None:
            return
        assert found.ticket == newest.ticket
        assert found.event_id is None
        self.undos.append((k, key))

    @rule(which=st.integers(0, 10**6))
    def sends_an_undo_again(self, which) -> None:
        if self.undos:
            k, key = self.undos[which % len(self.undos)]
            _, code = self.ask(undo, k, key)
            assert code in ((None, "gone") if self.is_active(k) else ("signed_out",))

    @rule(which=st.integers(0, 10**6), choice=st.sampled_from(["a", "b", "tie"]))
    def decides(self, which, choice) -> None:
        rows = self.pairs()
        key = self.key()
        with writing(self.project.engine) as connection:
            made = {adjudicate(connection, self.boss, rows[which % len(rows)].id, choice, key=key) for _ in range(2)}
        assert len(made) == 1
        self.decisions += 1

    @rule(k=WHO)
    def is_revoked(self, k) -> None:
        with writing(self.project.engine) as connection:
            revoke(connection, NAMES[k])

    @rule(k=WHO)
    def gets_a_new_link(self, k) -> None:
        with writing(self.project.engine) as connection:
            new_token(connection, self.people[k])

    @rule(seconds=st.sampled_from([1, 600, 901, 5000, -600, -901, -1e6, 1e6]))
    def time_passes(self, seconds) -> None:
        self.clock.time += seconds

    @rule(overlap=st.integers(1, 4), extra=st.integers(0, 2))
    def other_settings(self, overlap, extra) -> None:
        changed = dataclasses.replace(self.project.settings, overlap=overlap, extra=extra)
        with writing(self.project.engine) as connection:
            change_settings(connection, changed)
        self.project = dataclasses.replace(self.project, settings=changed)

    def read(self, table):
        with reading(self.project.engine) as connection:
            return connection.execute(select(table).order_by(*table.primary_key.columns)).all()

    def rows(self):
        return {row.ticket: row for row in self.read(assignment)}

    def pairs(self):
        return self.read(pair)

    def is_active(self, k) -> bool:
        people = self.read(self.project_people)
        return next(row.is_active for row in people if row.name == NAMES[k])

    @property
    def project_people(self):
        return pair.metadata.tables["person"]

    @invariant()
    def all_holds(self) -> None:
        if hasattr(self, "project"):
            kinds = check_queue(self.project)
            votes = (len(self.ballots), len(self.undos), self.decisions)
            assert (kinds["vote"], kinds["undo"], kinds["adjudicate"]) == votes, "a vote was lost or doubled"

    def finish(self) -> None:
        """Let everybody go on until there is nothing left: every task has its votes, or everybody saw it."""
        self.clock.time += 1e7
        for k in range(len(NAMES)):
            self.gets_a_new_link(k)
        num_before = -1
        while num_before != len(self.ballots):
            num_before = len(self.ballots)
            for k in range(len(NAMES)):
                self.takes(k)
                for ticket in self.tickets[k]:
                    self.send(k, Ballot(ticket, self.key(), CHOICES[self.numbers % 4]))
        self.all_holds()
        seen = {(row.pair_id, row.person_id) for row in self.rows().values()}
        for one in self.pairs():
            if one.kind == "task" and one.assigned < one.wanted:
                assert all((one.id, who.id) in seen for who in self.people)
            assert one.kind != "task" or one.assigned == one.votes_a + one.votes_b + one.votes_tie


@pytest.mark.slow
def test_queue() -> None:
    few = profile(max_examples=20, stateful_step_count=30, deadline=None)
    run_state_machine_as_test(Queue, settings=few)
