"""All numbers of a project at one moment."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tiltlm.data.labels import Agreement, measure_agreement
from tiltlm.estimates.intervals import Interval
from tiltlm.labeling.monitor.annotators import AnnotatorNumbers, measure_annotators
from tiltlm.labeling.monitor.contests import Contest, find_contests, labels_as_contest, win_rate, without
from tiltlm.labeling.monitor.coverage import (
    Coverage,
    measure_coverage,
    skips_by_reason,
    votes_by_day,
    votes_by_guidelines,
)
from tiltlm.labeling.monitor.facts import Facts
from tiltlm.labeling.monitor.forecast import SURE, Forecast, forecast
from tiltlm.labeling.monitor.planning import Plan, plan_project
from tiltlm.labeling.monitor.words import percent, probability
from tiltlm.labeling.project import ProjectSettings
from tiltlm.storage.files import finite_json

FEW_VOTES = 100
"""Votes below which the plan is shown beside the numbers."""


@dataclass(frozen=True)
class Verdict:
    """Which of two systems people prefer, as far as votes are in."""

    systems: tuple[str, str]
    rate: Interval | None
    """Win rate of the first system over prompts; None without votes."""
    num_pairs: int
    num_pairs_judged: int
    is_slice: bool
    """True if only the random slice counts, because other pairs were chosen and are no fair sample."""
    without: Mapping[str, Interval | None]
    """Annotator → the win rate without that one's votes."""
    forecast: Forecast | None

    @property
    def outcome(self) -> int:
        """1 if the interval lies above ½, −1 if below, else 0."""
        return outcome_of(self.rate)

    @property
    def depends_on(self) -> tuple[str, ...]:
        """Annotators without whom the verdict would be another one."""
        return tuple(name for name, rate in self.without.items() if outcome_of(rate) != self.outcome)

    def sentence(self) -> str:
        """Return the verdict in words."""
        first, second = self.systems
        if self.rate is None:
            return f"no votes on {first} against {second} yet"
        text = (
            f"{first} wins {percent(self.rate.estimate, 1)} against {second} "
            f"({100 * self.rate.low:.1f} to {100 * self.rate.high:.1f}, {self.rate.n} prompts)"
        )
        winner = {1: first, -1: second}.get(self.outcome)
        return f"{text}: {f'people prefer {winner}' if winner else 'no difference is shown'}"


def outcome_of(rate: Interval | None) -> int:
    """Return 1 if an interval lies above ½, −1 if below, else 0."""
    return 0 if rate is None else int(rate.low > 0.5) - int(rate.high < 0.5)


@dataclass(frozen=True)
class Status:
    """A project at one moment."""

    time: float
    title: str
    overlap: int
    coverage: Coverage
    agreement: Agreement | None
    """Of the first `overlap` votes on each pair; None without votes."""
    annotators: tuple[AnnotatorNumbers, ...]
    verdicts: tuple[Verdict, ...]
    """One for each two systems that were compared, those with most pairs first."""
    labels: Forecast | None
    """What the missing votes will change about labels; None without votes, or where systems are compared."""
    plan: Plan | None
    """Shown while there are few votes."""
    by_day: Mapping[str, int]
    by_guidelines: Mapping[int, int]
    skips: Mapping[str, int]
    notes: tuple[str, ...]

    @property
    def should_stop(self) -> bool:
        """True if the planned votes that are missing would hardly change what the labels serve."""
        if self.verdicts:
            return all(one.forecast is not None and one.forecast.verdict_is_sure for one in self.verdicts)
        return self.labels is not None and self.labels.labels_are_sure

    def advice(self) -> str:
        """Return in words whether to go on."""
        missing = round(self.coverage.num_expected)
        if not self.coverage.num_pairs:
            return "no pairs yet"
        if not missing:
            return "all planned votes are in"
        if self.verdicts:
            return self._advice_on_verdicts(missing)
        if self.labels is None:
            return f"go on: {missing:,} votes are planned, and none is in yet"
        votes = "vote" if missing == 1 else "votes"
        text = (
            f"{missing:,} missing {votes} would leave {percent(self.labels.same_labels, 1)} of the labels as they are"
        )
        return f"you may stop: {text}" if self.should_stop else f"go on: {text}"

    def _advice_on_verdicts(self, missing: int) -> str:
        forecasts = [one.forecast for one in self.verdicts]
        known = [one for one in forecasts if one is not None]
        if len(known) < len(forecasts):
            return f"go on: {missing:,} votes are planned, and not every comparison has votes yet"
        least = min(known, key=lambda one: one.same_verdict)
        text = (
            f"the verdict after all planned votes is the present one with probability {probability(least.same_verdict)}"
        )
        if self.should_stop:
            return f"you may stop and save about {missing:,} votes: {text}"
        return f"go on, about {missing:,} votes are missing: {text}; at {percent(SURE)} you may stop"

    def as_dict(self) -> dict[str, Any]:
        """Return all numbers as plain values for JSON."""
        plain = asdict(self)
        plain["should_stop"], plain["advice"] = self.should_stop, self.advice()
        if self.agreement is not None:
            plain["agreement"]["notes"] = {note.code: str(note) for note in self.agreement.notes}
            plain["agreement"].pop("annotators")
        plain["by_guidelines"] = {str(key): value for key, value in self.by_guidelines.items()}
        plain["coverage"]["per_pair"] = {str(key): value for key, value in self.coverage.per_pair.items()}
        for own, one in zip(plain["verdicts"], self.verdicts, strict=True):
            own |= {"outcome": one.outcome, "depends_on": list(one.depends_on), "sentence": one.sentence()}
        for own, numbers in zip(plain["annotators"], self.annotators, strict=True):
            own["flags"] = {note.code: str(note) for note in numbers.flags}
        for own, found in [
            (plain["labels"], self.labels),
            *zip((one["forecast"] for one in plain["verdicts"]), (one.forecast for one in self.verdicts), strict=True),
        ]:
            if own is not None and found is not None:
                own |= {"same_verdict": found.same_verdict, "neither": found.neither}
        found_values: dict[str, Any] = finite_json(plain)
        return found_values


def measure_status(facts: Facts, *, resamples: int = 1000) -> Status:
    """Return all numbers of a project.

    Args:
        facts: Its state.
        resamples: Draws of the bootstrap of agreement.
    """
    has_votes = len(facts.task_votes.choice) > 0
    agreement = measure_agreement(facts.first_votes, resamples=resamples) if has_votes else None
    coverage = measure_coverage(facts)
    verdicts = tuple(_verdict(facts, one) for one in find_contests(facts))
    return Status(
        time=facts.time,
        title=facts.settings.title,
        overlap=facts.settings.overlap,
        coverage=coverage,
        agreement=agreement,
        annotators=measure_annotators(facts, agreement),
        verdicts=verdicts,
        labels=forecast(labels_as_contest(facts), facts.settings) if has_votes and not verdicts else None,
        plan=plan_of(facts) if coverage.num_done < FEW_VOTES else None,
        by_day=votes_by_day(facts),
        by_guidelines=votes_by_guidelines(facts),
        skips=skips_by_reason(facts),
        notes=tuple(_notes(coverage, facts.settings)),
    )


def _verdict(facts: Facts, contest: Contest) -> Verdict:
    values = contest.values
    names = facts.task_votes.annotators
    rest = {name: win_rate(without(contest, facts, name).prompt_values()) for name in names} if len(names) > 1 else {}
    return Verdict(
        systems=contest.systems,
        rate=win_rate(contest.prompt_values()),
        num_pairs=len(values),
        num_pairs_judged=int((values == values).sum()),
        is_slice=contest.is_slice,
        without=rest,
        forecast=forecast(contest, facts.settings),
    )


def plan_of(facts: Facts) -> Plan:
    """Return the plan of a project that exists."""
    kinds = [one.kind for one in facts.pairs.values()]
    return plan_project(
        len(facts.tasks),
        facts.settings,
        num_people=sum(one.role == "annotator" and one.is_active for one in facts.people),
        num_gold=kinds.count("gold"),
        num_calibration=kinds.count("calibration"),
    )


def _notes(coverage: Coverage, settings: ProjectSettings) -> list[str]:
    """Return what whoever runs the project must know."""
    notes = []
    if coverage.num_out_of_reach:
        notes.append(
            f"{coverage.num_out_of_reach:,} missing votes can be given by nobody: too few annotators are active for "
            f"{settings.overlap} votes a pair, or everybody skipped. Invite more people, or decide these pairs"
        )
    return notes
