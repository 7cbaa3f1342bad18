"""The judging recipe: add scores or preferences of a judge to a data file, so that it can be trained on.

Every judgement is stored as soon as it is made, so a call that was stopped goes on where it was when the same command
is given again, and a second call asks the judge nothing.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tiltlm.core import ConfigError, DataError, RunError
from tiltlm.core.notes import Note
from tiltlm.data import DataSettings
from tiltlm.data.data_settings import FILE_KEYS, LABEL_KEYS
from tiltlm.data.rows.comparisons import best_and_worst
from tiltlm.judging import Budget, JudgementCache, JudgeSettings, Role, build_judge, cached, compared
from tiltlm.judging.cache import CachedComparer, CachedScorer
from tiltlm.judging.judge import MAX_ERRORS
from tiltlm.judging.judge_settings import FOR_DATA
from tiltlm.judging.language.family import check_family
from tiltlm.judging.orders import each_in_both_orders, one_order
from tiltlm.judging.roles import check_trains
from tiltlm.recipes.answers.judged import Estimate, Judged, Pairing
from tiltlm.recipes.answers.judged_columns import REPLACED, Outcome, preferred, scored, scores_of
from tiltlm.recipes.answers.judged_rows import JudgedData, JudgedRow, read_judged, with_columns
from tiltlm.recipes.prepare import note_all
from tiltlm.recipes.progress import ProgressCallback, silent
from tiltlm.sampling.answers import check_ending, split_ending, write_plain_rows
from tiltlm.storage.files import check_file, finite_json, write_json
from tiltlm.version import __version__

log = logging.getLogger(__name__)

SCHEMA = "tiltlm.judged/1"
CHARACTERS = 4
"""Characters of one token, in an estimate."""
JUDGE_READS = (
    *LABEL_KEYS,
    *FILE_KEYS,
    *("data.train", "data.split", "data.subset", "data.revision", "data.limit", "data.columns", "data.ignore"),
    *("data.on_bad", "data.max_bad", "judge"),
)
"""Settings that the command reads."""


@dataclass(frozen=True)
class JudgingSettings:
    """Settings of the judging recipe."""

    data: DataSettings
    judge: JudgeSettings


@dataclass(frozen=True)
class JudgeRequest:
    """What is asked of a judge, and where its answers go."""

    output: Path | None
    """The file to write; None with `dry_run` only."""
    role: Role = "train"
    comparisons: Pairing | None = None
    """Which responses of a list are compared; None: scorers score, comparers compare all pairs."""
    seed: int = 0
    """Seed of random pairs."""
    max_calls: int | None = None
    max_cost: float | None = None
    accept_errors: bool = False
    unaudited: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.role not in ("train", "held_out"):
            raise ConfigError(
                f"--role is {self.role!r}; it must be train or held_out", code="unknown_name", key="--role"
            )
        for name, value in (("--max-calls", self.max_calls), ("--max-cost", self.max_cost)):
            if value is not None and value <= 0:
                raise ConfigError(f"{name} is {value}; it must be above 0", code="not_positive", key=name)
        if self.output is not None:
            check_file(self.output, "--output")
            check_ending(self.output)
            if self.output.exists() and not self.overwrite:
                raise ConfigError(
                    f"--output {self.output} exists; give --overwrite to replace it, or another name",
                    code="output_exists",
                    key="--output",
                )


def judge(
    settings: JudgingSettings, request: JudgeRequest, *, dry_run: bool = False, progress: ProgressCallback = silent
) -> Judged | Estimate:
    """Add scores or preferences to data.

    Args:
        settings: Data and judge.
        request: What is asked, limits, and the output.
        dry_run: Only say what it would cost.
        progress: Called with the number of judgements.

    Raises:
        ConfigError: The judge has no audit, or a setting cannot work.
        DataError: The data cannot be read, or its rows have one response and the judge compares.
        RunError: A limit is reached, or too many judgements failed. What was judged is kept.
    """
    if request.output is None and not dry_run:
        raise ConfigError("the output is missing; give --output FILE", code="missing_setting", key="--output")
    data = read_judged(settings.data)
    note_all([*(data.accounting.lines() if data.accounting.dropped else ()), *data.notes])
    progress("load the judge", 0, 0)
    own = build_judge(settings.judge, role=request.role)
    check_family(own, systems_of(data), allow_self=settings.judge.allow_self)
    budget = Budget(request.max_calls, request.max_cost)
    with JudgementCache() as cache:
        call = Call(settings.judge, request, data, cached(own, cache, budget=budget))
        call.check()
        if dry_run:
            return call.estimate()
        if request.role == "train":
            check_trains(settings.judge, own, unaudited=request.unaudited)
        outcomes = list(call.outcomes(progress))
        if cache.num_damaged:
            extra = {"event": "damaged_judgements", "rows": cache.num_damaged}
            log.warning("%d stored judgements were damaged and were made again", cache.num_damaged, extra=extra)
    return call.finish(outcomes, budget)


def systems_of(data: JudgedData) -> set[tuple[str, str]]:
    """Return name and weights digest of the models whose answers the rows hold, as far as the rows say."""
    found = {(str(r.values.get("model") or ""), str(r.values.get("model_digest") or "")) for r in data.rows}
    return found - {("", "")}


@dataclass(frozen=True, eq=False)
class Call:
    """One call of the recipe."""

    settings: JudgeSettings
    request: JudgeRequest
    data: JudgedData
    judge: CachedScorer | CachedComparer

    @property
    def scores(self) -> bool:
        """True if responses are scored and not compared."""
        return isinstance(self.judge, CachedScorer) and self.request.comparisons is None

    @property
    def pairing(self) -> Pairing:
        """Which pairs are compared."""
        return self.request.comparisons or Pairing("all")

    def check(self) -> None:
        """Refuse what the data do not allow.

        Raises:
            DataError: There is nothing to compare.
            ConfigError: `--comparisons` cannot work with this data and judge.
        """
        if self.scores:
            reason = "responses are scored one by one (--comparisons all would compare by the scores)"
            self.settings.refuse((*FOR_DATA, "scale"), reason)
            return
        if self.data.shape not in ("pairs", "lists"):
            raise DataError(
                f"the rows have one response each, and {self.judge.name} is to compare; give pairs or lists of "
                "responses, or a judge that scores",
                code="wrong_data_shape",
                key="judge.kind",
            )
        compares_scores = isinstance(self.judge, CachedScorer) and self.pairing.rule == "all"
        if self.request.comparisons is not None and self.data.shape == "pairs" and not compares_scores:
            raise ConfigError(
                "--comparisons chooses pairs of a list, and the data has pairs; remove it",
                code="no_effect",
                key="--comparisons",
            )
        if self.pairing.rule == "best_worst" and not isinstance(self.judge, CachedScorer):
            missing = next((row.location for row in self.data.rows if len(scores_of(row)) != len(row.responses)), None)
            if missing is not None:
                raise DataError(
                    f"{missing}: --comparisons best_worst needs to know the best and the worst response; judge the "
                    "data with a scorer first, so that the rows have `scores`",
                    code="missing_column",
                    key="--comparisons",
                    row=missing,
                )

    # What is judged

    def outcomes(self, progress: ProgressCallback) -> Iterator[Outcome]:
        """Yield what became of each row, in order."""
        if isinstance(self.judge, CachedScorer) and self.scores:
            items = [item for row in self.data.rows for item in row.items]
            scores = counted(self.judge.score(items), len(items), progress)
            for row in self.data.rows:
                yield scored(row, [next(scores) for _ in row.responses], self.data.shape)
            return
        pairs = [self.pairs_of(row) for row in self.data.rows]
        asked = [row.pair(i, j) for row, own in zip(self.data.rows, pairs, strict=True) for i, j in own]
        comparer = compared(self.judge, self.scale) if isinstance(self.judge, CachedScorer) else self.judge
        compare = each_in_both_orders if self.settings.both_orders else one_order
        results = counted(compare(comparer, asked), len(asked), progress)
        for row, own in zip(self.data.rows, pairs, strict=True):
            found = {pair: next(results) for pair in own}
            yield preferred(row, found, self.data.shape, soft=self.settings.soft)

    @property
    def scale(self) -> float:
        """Difference of two scores that is one nat."""
        scale: float = self.judge.scale
        return scale

    def pairs_of(self, row: JudgedRow) -> list[tuple[int, int]]:
        """Return which responses of a row are compared."""
        if self.data.shape == "pairs":
            return Pairing("all").choose(row.prompt, row.responses, self.request.seed)
        if self.pairing.rule != "best_worst":
            return self.pairing.choose(row.prompt, row.responses, self.request.seed)
        return self._best_and_worst(row)

    def _best_and_worst(self, row: JudgedRow) -> list[tuple[int, int]]:
        """Return the best and the worst response; nothing if all are equal. Among equals, a hash decides."""
        scores: Sequence[float | None] = scores_of(row)
        if isinstance(self.judge, CachedScorer):
            scores = [score.value for score in self.judge.score(row.items)]
        known = [(k, value) for k, value in enumerate(scores) if value is not None]
        found = best_and_worst([value for _, value in known], [row.responses[k] for k, _ in known])
        return [] if found is None else [(known[found[0]][0], known[found[1]][0])]

    def estimate(self) -> Estimate:
        """Return what the calls that are not in the cache would cost."""
        missing: Sequence[Any]
        if isinstance(self.judge, CachedScorer):
            items = [item for row in self.data.rows for item in row.items]
            missing, num = self.judge.missing(items), len(items)
            texts = [f"{item.prompt}{item.response}" for item in missing]
        else:
            pairs = [row.pair(i, j) for row in self.data.rows for i, j in self.pairs_of(row)]
            shown = [*pairs, *(pair.swapped for pair in pairs if self.settings.both_orders)]
            missing, num = self.judge.missing(shown), len(shown)
            texts = [f"{pair.prompt}{pair.a}{pair.b}" for pair in missing]
        tokens = sum(len(text) // CHARACTERS + 1 for text in texts)
        return Estimate(self.judge.name, num, len(missing), tokens, self.judge.price(tokens, len(missing)))

    # What is written

    def finish(self, outcomes: Sequence[Outcome], budget: Budget) -> Judged:
        """Write the files, and return what was found.

        Raises:
            RunError: Too many judgements failed, or no row is left.
        """
        output = self.request.output
        assert output is not None, "checked before judging"
        judgements = [entry for outcome in outcomes for entry in outcome.judgements]
        counts = Counter(entry["status"] for entry in judgements)
        self._check_errors(judgements, counts["error"])
        kept, dropped = [], []
        for row, outcome in zip(self.data.rows, outcomes, strict=True):
            if outcome.added is None:
                dropped.append(with_columns(row.values, {"dropped": outcome.cause}, ()))
            else:
                kept.append(with_columns(row.values, outcome.added, REPLACED[self.data.shape]))
        name, ending = split_ending(output.name)
        dropped_path = output.with_name(f"{name}.dropped{ending}") if dropped else None
        if not kept:
            causes = Counter(outcome.cause for outcome in outcomes).most_common()
            raise RunError(
                f"no row is left: {', '.join(f'{cause}: {num}' for cause, num in causes)}; the judgements are kept",
                code="no_rows_left",
            )
        if dropped_path is not None:
            write_plain_rows(dropped_path, dropped)
        write_plain_rows(output, kept)
        result = Judged(
            judge=self.judge.name,
            digest=self.judge.digest,
            path=output,
            rows=tuple(kept),
            judgements=tuple(judgements),
            counts=dict(counts),
            num_calls=budget.calls,
            cost=budget.cost,
            num_dropped=len(dropped),
            dropped_path=dropped_path,
            notes=tuple(self._notes(dropped)),
        )
        write_json(output.with_name(f"{name}.judge.json"), finite_json(self._record(result)))
        return result

    def _check_errors(self, judgements: Sequence[Mapping[str, Any]], num: int) -> None:
        share = num / max(1, len(judgements))
        if share <= MAX_ERRORS or self.request.accept_errors:
            return
        first = next(entry["error"] for entry in judgements if entry["status"] == "error")
        raise RunError(
            f"{num} of {len(judgements)} judgements failed ({share:.1%}; at most {MAX_ERRORS:.0%} may), the first: "
            f"{first}. Nothing was written, and what was judged is kept. Mend the judge and run the command again, or "
            "leave the rows out with --accept-errors",
            code="too_many_errors",
            key="--accept-errors",
        )

    def _notes(self, dropped: Sequence[Mapping[str, Any]]) -> Iterator[Note]:
        for cause, num in Counter(row["dropped"] for row in dropped).most_common():
            yield Note(f"{num} rows are left out: {cause}", code="rows_dropped")
        replaced = sorted({c for row in self.data.rows for c in row.values} & REPLACED[self.data.shape])
        if replaced:
            yield Note(f"columns of the data that the judgements replace: {', '.join(replaced)}", code="replaced")
        if self.pairing.rule == "best_worst" and isinstance(self.judge, CachedScorer) and not self.scores:
            yield Note(
                "best and worst were chosen by the scores that label them, which overstates preferences where the "
                "judge is noisy; random pairs or another judge for the labels do not",
                code="selection_bias",
            )
        if self.request.role == "train" and self.settings.audit is None:
            yield Note("the judge was not audited, so nobody knows how often it is right", code="unaudited")

    def _record(self, result: Judged) -> dict[str, Any]:
        """Return what is known about the file: who judged it, how, and what came out."""
        return {
            "schema": SCHEMA,
            "version": __version__,
            "judge": {
                "name": result.judge,
                "digest": result.digest,
                "role": self.request.role,
                "scale": self.scale,
                "audited": self.settings.audit is not None,
                "settings": asdict(self.settings),
            },
            "shape": self.data.shape,
            "comparisons": None if self.scores else asdict(self.pairing),
            "counts": dict(result.counts),
            "rows": len(result.rows),
            "dropped": result.num_dropped,
            "calls": result.num_calls,
            "cost": result.cost,
            "notes": [str(note) for note in result.notes],
        }


def counted(results: Iterator[Any], total: int, progress: ProgressCallback) -> Iterator[Any]:
    """Yield results and show how many there are."""
    for done, result in enumerate(results, start=1):
        progress("judge", done, total)
        yield result
