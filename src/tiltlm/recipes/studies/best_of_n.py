"""The best-of-n recipe: one pool of answers a prompt, scored once, and the curve of best-of-n for every n from it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tiltlm.core import ConfigError, RunError
from tiltlm.diagnostics.pools import measure_best_of_n
from tiltlm.evaluation.answers.scored_pool import ScoredPool
from tiltlm.judging import Item, JudgeSettings, Role, Scorer
from tiltlm.judging.cache import JudgementCache, cached
from tiltlm.judging.judge import MAX_ERRORS
from tiltlm.judging.roles import has_audit
from tiltlm.recipes.answers.systems import (
    Drawing,
    Named,
    draw_answers,
    name_systems,
    open_judge,
    refuse_own_family,
    require_prompts,
)
from tiltlm.recipes.progress import ProgressCallback, silent
from tiltlm.recipes.study_checks import check_call
from tiltlm.sampling.answers import AnswerRow, read_answers, write_plain_rows

if TYPE_CHECKING:
    import pandas as pd

WINNERS = "winners.jsonl"


@dataclass(frozen=True)
class PoolRequest:
    """What is drawn and judged, and where the results go."""

    model: str
    """A model folder, a run, a name on the hub, or a file of answers."""
    prompts: str | None
    judge: Any
    """Settings of the judge that chooses."""
    gold: Any
    """Settings of a judge that does not choose; None: only the judge that chooses is shown."""
    output: Path
    n: int = 64
    max_new_tokens: int = 256
    limit: int | None = None
    seed: int = 0
    markdown: bool = False
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_call(self.judge, self.output, resume=self.resume, overwrite=self.overwrite)
        if self.n < 2:
            raise ConfigError(f"n is {self.n}; best-of-n needs at least 2 answers", code="out_of_range", key="n")


@dataclass(frozen=True, repr=False)
class BestOfNRun:
    """A finished call, as a terminal and a notebook look at it."""

    path: Path
    pool: ScoredPool

    def __repr__(self) -> str:
        from tiltlm.report.answers.best_of_n import sentences_of

        lines = [f"  {sentence}" for sentence in sentences_of(self.pool)]
        return "\n".join([f"BestOfNRun: {self.pool.model}, judge {self.pool.judge}", *lines])

    def summary(self) -> str:
        """Return what the command line prints at the end."""
        from tiltlm.report.answers.best_of_n import sentences_of

        return "\n".join(
            [
                *sentences_of(self.pool),
                "",
                f"report   {self.path / 'best-of-n.html'}",
                f"winners  {self.path / WINNERS}  (train on them: objective=sft)",
            ]
        )

    def to_pandas(self) -> pd.DataFrame:
        """Return a table with one row for each n: score, gold score, KL, cost, with the ends of their intervals."""
        import pandas as pd

        from tiltlm.report.answers.best_of_n import points_of

        return pd.DataFrame(points_of(self.pool))


def best_of_n(request: PoolRequest, *, progress: ProgressCallback = silent) -> BestOfNRun:
    """Draw or read a pool, score it, and write the page and the winners.

    Raises:
        TiltError: something is wrong; what can be seen before a model is loaded is refused then.
    """
    (named,) = name_systems([request.model])
    check_pool_request(request, named)
    judge = open_scorer(request.judge, "judge", "train")  # its choices are written as demonstrations
    gold = None if request.gold is None else open_scorer(request.gold, "gold", "held_out")
    if gold is not None and gold.digest == judge.digest:
        raise ConfigError(
            f"judge and gold are the same judge ({judge.digest}); a judge that chooses cannot measure what was won. "
            "Name another one as gold, or leave it out",
            code="same_judge",
            key="gold",
        )
    rows = read_pool(request, named, progress)
    refuse_own_family(judge, request.judge, rows)
    scores = score_rows(judge, rows, progress, "judge")
    golds = None if gold is None else score_rows(gold, rows, progress, "gold")
    pool, kept = measure_pool(request, named.name, judge.name, None if gold is None else gold.name, rows, scores, golds)
    pool = replace(pool, is_audited=not isinstance(request.judge, JudgeSettings) or has_audit(request.judge))
    write_pool(request, pool, [rows[i] for i in kept], [scores[i] for i in kept])
    return BestOfNRun(request.output, pool)


def check_pool_request(request: PoolRequest, named: Named) -> None:
    """Refuse what can be seen to be wrong before anything is loaded.

    Raises:
        ConfigError: prompts are missing or have no effect.
    """
    require_prompts(named, request.prompts)
    if named.kind == "answers" and request.prompts is not None:
        raise ConfigError(
            "prompts have no effect: the answers are in a file; remove them", code="no_effect", key="prompts"
        )


def open_scorer(settings: Any, key: str, role: Role) -> Scorer:
    """Return a judge that scores single answers.

    Raises:
        ConfigError: the judge compares two answers.
    """
    judge = open_judge(settings, role)
    if isinstance(judge, Scorer):
        return judge
    raise ConfigError(
        f"{key}: {judge.name} compares two answers, and best-of-n needs a score for each; use a reward model, a "
        "verifier or a grade",
        code="not_a_scorer",
        key=key,
    )


def read_pool(request: PoolRequest, named: Named, progress: ProgressCallback) -> list[AnswerRow]:
    """Return the answers, n to each prompt.

    Raises:
        ConfigError: a prompt has fewer than n answers.
    """
    if named.kind == "answers":
        rows = [first_answers(row, request.n) for row in read_answers(Path(named.path))]
    else:
        folder = request.output / "answers"
        folder.mkdir(parents=True, exist_ok=True)
        drawing = Drawing(
            prompts=request.prompts,
            n=request.n,
            temperatures=(1.0,),
            max_new_tokens=request.max_new_tokens,
            seed=request.seed,
            limit=request.limit,
            folder=folder,
            is_continued=request.resume,
        )
        rows = list(draw_answers(named, drawing, progress))
    if len({row.temperature for row in rows}) > 1:
        raise ConfigError(
            f"{named.path} has answers at several temperatures, which are several policies; name a file of one",
            code="several_temperatures",
            key="model",
        )
    few = [row for row in rows if len(row.answers) < request.n]
    if few:
        raise ConfigError(
            f"{len(few)} of {len(rows)} prompts have fewer than {request.n} answers ({few[0].id} has "
            f"{len(few[0].answers)}); lower n, or draw more",
            code="too_few_answers",
            key="n",
        )
    return rows


def first_answers(row: AnswerRow, n: int) -> AnswerRow:
    """Return a row with its first n answers, so that no other one is judged and paid for."""
    return replace(
        row,
        answers=row.answers[:n],
        ended=row.ended[:n],
        token_ids=None if row.token_ids is None else row.token_ids[:n],
        logps=None if row.logps is None else row.logps[:n],
        behaviour_logps=None if row.behaviour_logps is None else row.behaviour_logps[:n],
        behaviour_token_logps=None if row.behaviour_token_logps is None else row.behaviour_token_logps[:n],
        scores=(),
    )


def score_rows(judge: Scorer, rows: Sequence[AnswerRow], progress: ProgressCallback, label: str) -> list[list[float]]:
    """Return the scores of all answers, NaN where the judge failed."""
    items = [
        Item(row.prompt, text, row.row, ended)
        for row in rows
        for text, ended in zip(row.answers, row.ended, strict=True)
    ]
    found = []
    with JudgementCache() as cache:
        for score in cached(judge, cache).score(items):
            found.append(math.nan if score.value is None else score.value)
            progress(label, len(found), len(items))
    ends = np.cumsum([len(row.answers) for row in rows])
    return [list(part) for part in np.split(np.array(found, dtype=np.float64), ends[:-1])]


def measure_pool(
    request: PoolRequest,
    model: str,
    judge: str,
    gold: str | None,
    rows: Sequence[AnswerRow],
    scores: Sequence[Sequence[float]],
    golds: Sequence[Sequence[float]] | None,
) -> tuple[ScoredPool, list[int]]:
    """Return the curves, and the prompts that they are of.

    Raises:
        RunError: more than `MAX_ERRORS` of the prompts have an answer without a score.
    """
    causes, kept = Counter[str](), []
    for i in range(len(rows)):
        if not np.isfinite(scores[i]).all():
            causes["the judge failed on an answer"] += 1
        elif golds is not None and not np.isfinite(golds[i]).all():
            causes["the gold judge failed on an answer"] += 1
        else:
            kept.append(i)
    if not kept or causes.total() > MAX_ERRORS * len(rows):
        raise RunError(
            f"{causes.total()} of {len(rows)} prompts have an answer without a score, and at most {MAX_ERRORS:.0%} "
            "may: the curve would be of the easy prompts. Judge again; answers that have a score are not paid twice",
            code="judge_errors",
            key="judge",
        )
    exact = all(row.has_own_distribution and row.logps is not None for row in rows)
    logps = [list(rows[i].logps or ()) for i in kept] if exact else None
    if logps is not None and not np.isfinite(logps).all():
        logps = None
    ids = [rows[i].token_ids for i in kept]
    keys = [[t.tobytes() for t in own] for own in ids if own is not None]
    curve = measure_best_of_n(
        [scores[i] for i in kept],
        sizes_up_to(request.n),
        gold=None if golds is None else [golds[i] for i in kept],
        logps=logps,
        keys=keys if len(keys) == len(kept) else None,
        seed=request.seed,
    )
    tokens = [len(t) for own in ids if own is not None for t in own]
    mean_tokens = float(np.mean(tokens)) if tokens else None
    return ScoredPool(model, judge, gold, curve, mean_tokens, dict(causes), exact), kept


def sizes_up_to(n: int) -> list[int]:
    """Return 1, 2, 4, … and n."""
    return sorted({*(2**k for k in range(n.bit_length()) if 2**k <= n), n})


def write_pool(
    request: PoolRequest, pool: ScoredPool, rows: Sequence[AnswerRow], scores: Sequence[Sequence[float]]
) -> None:
    """Write the page, its JSON file, and the best answer to each prompt as demonstrations.

    Among equal scores the first answer is taken. All answers are exchangeable, so this favours none.
    """
    from tiltlm.report.answers.best_of_n import write_best_of_n

    request.output.mkdir(parents=True, exist_ok=True)
    winners = []
    for row, own in zip(rows, scores, strict=True):
        best = int(np.argmax(own))
        winner: dict[str, Any] = {"id": row.id}
        if row.token_ids is not None and row.prompt_ids is not None:
            winner |= {"prompt_ids": row.prompt_ids.tolist(), "completion_ids": row.token_ids[best].tolist()}
            winner["ended"] = row.ended[best]
        else:
            prompt = row.prompt if isinstance(row.prompt, str) else list(row.prompt)
            winner |= {"prompt": prompt, "completion": row.answers[best]}
        winners.append({**winner, "metadata": {"text": row.answers[best], "score": own[best]}})
    write_plain_rows(request.output / WINNERS, winners)
    write_best_of_n(request.output, pool, markdown=request.markdown)
