"""How much of the planned work is done."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from tiltlm.labeling.monitor.facts import Facts


@dataclass(frozen=True)
class Coverage:
    """Votes and pairs against what the project wants. Gold, calibration and repeats are not among them."""

    num_pairs: int
    per_pair: Mapping[int, int]
    """Number of votes → how many pairs have so many."""
    num_done: int
    """Votes that count."""
    num_complete: int
    """Pairs with all their votes."""
    num_wanted: int
    """Votes that all pairs want together, as far as is known: a disagreement in the future adds to it."""
    num_expected: float
    """Votes still to come: those that are missing, and those that disagreements are expected to ask for."""
    num_held: int
    """Votes that are missing on pairs that somebody has on the screen."""
    num_out_of_reach: int
    """Votes that are missing and that no active annotator may give: everybody voted or skipped already."""
    num_adjudicated: int
    num_decided: int
    """Pairs with a vote or an adjudication."""

    @property
    def share(self) -> float:
        """Done as a share of done and expected."""
        total = self.num_done + self.num_expected
        return self.num_done / total if total else 0.0


def measure_coverage(facts: Facts) -> Coverage:
    """Return how much of the planned work is done."""
    tasks = facts.tasks
    missing = {one.id: max(0, one.wanted - one.num_votes) for one in tasks}
    return Coverage(
        num_pairs=len(tasks),
        per_pair=dict(sorted(Counter(one.num_votes for one in tasks).items())),
        num_done=sum(one.num_votes for one in tasks),
        num_complete=sum(not missing[one.id] for one in tasks),
        num_wanted=sum(one.wanted for one in tasks),
        num_expected=sum(missing.values()) + _expected_extra(facts),
        num_held=sum(max(0, one.assigned - one.num_votes) for one in tasks),
        num_out_of_reach=_out_of_reach(facts, missing),
        num_adjudicated=sum(one.decided is not None for one in tasks),
        num_decided=sum(one.num_votes > 0 or one.decided is not None for one in tasks),
    )


def _expected_extra(facts: Facts) -> float:
    """Return how many votes disagreements will add: the share of disputed pairs so far, times the pairs to come."""
    settings = facts.settings
    if settings.overlap < 2 or not settings.extra:
        return 0.0
    judged = [one for one in facts.tasks if one.num_votes >= settings.overlap]
    if not judged:
        return 0.0
    disputed = sum(one.wanted > settings.overlap for one in judged) / len(judged)
    return disputed * settings.extra * (len(facts.tasks) - len(judged))


def _out_of_reach(facts: Facts, missing: Mapping[int, int]) -> int:
    """Return how many missing votes nobody may give."""
    active = {one.name for one in facts.people if one.is_active and one.role == "annotator"}
    seen: dict[int, set[str]] = {}
    for vote in facts.votes:
        if not vote.is_repeat:
            seen.setdefault(vote.pair, set()).add(vote.annotator)
    return sum(max(0, num - len(active - seen.get(key, set()))) for key, num in missing.items())


def votes_by_day(facts: Facts) -> dict[str, int]:
    """Return the number of votes of each day, in UTC; days without votes are left out."""
    days = (datetime.fromtimestamp(vote.server_time, UTC).date().isoformat() for vote in facts.votes)
    return dict(sorted(Counter(days).items()))


def votes_by_guidelines(facts: Facts) -> dict[int, int]:
    """Return the number of votes that were given under each version of the guidelines."""
    counts = Counter(vote.guideline_version for vote in facts.votes)
    return {version: counts[version] for version in facts.guidelines}


def skips_by_reason(facts: Facts) -> dict[str, int]:
    """Return how often each reason of a skip was given, the most frequent first."""
    return dict(Counter(vote.reason or "no reason" for vote in facts.votes if vote.is_skip).most_common())
