"""States of a labelling project, made by hand: which person said what about which pair."""

from collections.abc import Mapping, Sequence
from typing import Any

from tiltlm.labeling.monitor.facts import Facts, PairFact, VoteFact
from tiltlm.labeling.project import ProjectSettings
from tiltlm.labeling.queue.ballots import dispute
from tiltlm.labeling.store.people import Person

PLACES = {"a": 0, "b": 1, "tie": 2, "both_bad": 2}


def make_facts(
    votes: Sequence[tuple[Any, ...]],
    *,
    num_pairs: int,
    people: Sequence[str] | None = None,
    models: Mapping[int, tuple[str, str]] | tuple[str, str] = ("alpha", "beta"),
    prompts: Mapping[int, int] | None = None,
    kinds: Mapping[int, str] | None = None,
    answers: Mapping[int, str] | None = None,
    decided: Mapping[int, str] | None = None,
    in_slice: Sequence[int] = (),
    lengths: Mapping[int, int] | None = None,
    **settings: Any,
) -> Facts:
    """Return a project.

    Args:
        votes: (pair, annotator, choice) and, where it matters, a mapping with other values of the vote.
        num_pairs: Pairs have the numbers from 0. Their order is that of their numbers.
        people: Annotators; those who voted, if it is None.
        models: Who wrote the two responses: of each pair, or of all.
        prompts: Pair → prompt; each its own, if it is None.
        kinds: Pair → gold or calibration.
        answers: Pair → the known answer.
        decided: Pair → adjudication.
        in_slice: Pairs of the random slice.
        lengths: Pair → characters of its responses.
        **settings: Settings of the project.
    """
    chosen = ProjectSettings(**settings)
    found = [_vote(k, *one) for k, one in enumerate(votes)]
    counts = {k: [0, 0, 0] for k in range(num_pairs)}
    for vote in found:
        if not (vote.is_repeat or vote.is_skip):
            counts[vote.pair][PLACES[vote.choice]] += 1
    pairs = {}
    for k, own in counts.items():
        is_disputed = sum(own) >= chosen.overlap and dispute(*own) > 0
        kind = (kinds or {}).get(k, "task")
        pairs[k] = PairFact(
            id=k,
            key=f"pair {k:05}",
            kind=kind,
            prompt=(prompts or {}).get(k, k),
            source="",
            models=models if isinstance(models, tuple) else models[k],
            wanted=0 if kind != "task" else chosen.overlap + (chosen.extra if is_disputed else 0),
            assigned=sum(own),
            counts=tuple(own),
            dispute=dispute(*own),
            is_random=k in in_slice,
            place=k,
            answer=(answers or {}).get(k),
            decided=(decided or {}).get(k),
        )
    names = sorted({vote.annotator for vote in found}) if people is None else people
    return Facts(
        settings=chosen,
        pairs=pairs,
        votes=tuple(found),
        people=tuple(Person(k, name, "annotator") for k, name in enumerate(names)),
        guidelines={1: 0.0},
        lengths=lengths or {},
        time=0.0,
    )


def _vote(k: int, pair: int, annotator: str, choice: str, more: Mapping[str, Any] | None = None) -> VoteFact:
    values: dict[str, Any] = {
        "is_repeat": False,
        "left": "a",
        "reason": "",
        "note": "",
        "dwell_ms": None,
        "server_time": 1000.0 * k,
        "guideline_version": 1,
    }
    return VoteFact(id=k + 1, pair=pair, annotator=annotator, choice=choice, **{**values, **(more or {})})
