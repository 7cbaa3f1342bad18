from support.label_databases import new_project
from tiltlm.labeling.queue.assignments import take
from tiltlm.labeling.queue.ballots import Ballot, vote
from tiltlm.labeling.store.database import writing


def answer(project, who, choice="left", **values):
    """Take one pair and vote; return the assignment, None if there is nothing left."""
    with writing(project.engine) as connection:
        found = take(connection, project, who, limit=1)
        if not found:
            return None
        vote(connection, project, who, Ballot(found[0].ticket, f"{who.id} {found[0].ticket}", choice, **values))
        return found[0]


def test_a_repeat_needs_votes_before_it(database):
    """Nobody has a repeat before the gap, however often one is drawn."""
    project, (ann, *_) = new_project(database, 30, repeat_share=0.5, gold_share=0, repeat_gap=3)
    given = [answer(project, ann) for _ in range(20)]
    assert not any(one.is_repeat for one in given[:4])
    assert any(one.is_repeat for one in given)
    for place, one in enumerate(given):
        if one.is_repeat:
            (first,) = [k for k in range(place) if given[k].pair_id == one.pair_id]
            assert place - first > 3
            assert given[first].left != one.left
