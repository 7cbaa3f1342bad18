"""Which pairs come first: where a policy is least certain, or prompts unlike those before."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tiltlm.core.errors import ConfigError
from tiltlm.data.similarity.near_duplicates import SHINGLE_WORDS, signatures
from tiltlm.data.similarity.shingles import normal_text, word_shingles
from tiltlm.judging.judge import Item, Scorer
from tiltlm.judging.judge_settings import JudgeSettings, build_judge
from tiltlm.labeling.project import Selection
from tiltlm.labeling.store.pairs import NewPair, content_key, to_json
from tiltlm.recipes.labeling.pairs.candidates import Candidate, with_priorities
from tiltlm.recipes.labeling.pairs.requests import MarginSettings
from tiltlm.recipes.progress import ProgressCallback

MAX_FARTHEST = 5000
"""Prompts that are ordered by distance. Those behind them come in the order of their digests: comparing n prompts takes
n² steps, and nobody labels that many before the order stops to matter."""


def order(
    candidates: Sequence[Candidate], select: Selection, margins: MarginSettings, progress: ProgressCallback
) -> list[Candidate]:
    """Return pairs with the priority that a selection gives them; lower is earlier.

    Args:
        candidates: The pairs.
        select: The selection. Others than `uncertain` and `diverse` need no priorities.
        margins: The policy of `uncertain`.
        progress: Called as work proceeds.

    Raises:
        ConfigError: Pairs have no margin.
        ModelError: A model cannot be used.
    """
    if select == "uncertain":
        return with_priorities(candidates, _margins(candidates, margins, progress))
    if select == "diverse":
        return with_priorities(candidates, farthest_first([one.new for one in candidates]))
    return list(candidates)


def _margins(candidates: Sequence[Candidate], margins: MarginSettings, progress: ProgressCallback) -> list[float]:
    """Return how far apart the two responses of each pair are, by a policy or by the column `margin`."""
    if margins.model is None:
        if any(one.margin is None for one in candidates):
            raise ConfigError(
                "--select uncertain needs margins: give --model M and --reference R, or data with a column `margin`",
                code="missing_setting",
                key="--model",
            )
        return [abs(one.margin or 0.0) for one in candidates]
    settings = JudgeSettings("implicit", model=margins.model, reference=margins.reference, beta=margins.beta)
    judge = build_judge(settings)
    assert isinstance(judge, Scorer), "an implicit reward scores"
    items = [
        Item(_prompt_of(one), text, {}, ended)
        for one in candidates
        for text, ended in zip(one.texts, one.ended, strict=True)
    ]
    values = []
    for done, score in enumerate(judge.score(items), 1):
        values.append(np.nan if score.value is None else score.value)
        progress("margins of the pairs", done, len(items))
    gaps = np.abs(np.subtract(values[::2], values[1::2]))
    return [float(gap) for gap in np.where(np.isnan(gaps), np.inf, gaps)]


def _prompt_of(one: Candidate) -> str | tuple[dict[str, str], ...]:
    new = one.new
    if isinstance(new.prompt, str):
        if not new.system:
            return new.prompt
        return {"role": "system", "content": new.system}, {"role": "user", "content": new.prompt}
    return tuple(new.prompt)


def farthest_first(pairs: Sequence[NewPair]) -> list[float]:
    """Return the place of each pair in an order in which each prompt is as unlike those before as possible.

    Each prompt comes once before any prompt comes a second time. The order depends on contents alone.

    Args:
        pairs: The pairs.
    """
    prompts = [to_json([one.system, one.prompt]) for one in pairs]
    distinct = sorted(set(prompts), key=lambda text: content_key(text, "", ""))
    places = {distinct[k]: place for place, k in enumerate(_farthest(distinct))}
    keys = [content_key(one.prompt, one.a, one.b, one.system) for one in pairs]
    found, rounds = [0.0] * len(pairs), dict[str, int]()
    for k in sorted(range(len(pairs)), key=lambda k: keys[k]):
        number = rounds.get(prompts[k], 0)
        rounds[prompts[k]] = number + 1
        found[k] = float(number * len(distinct) + places[prompts[k]])
    return found


def _farthest(texts: Sequence[str]) -> list[int]:
    """Return an order of distinct texts: the first one, then always the one that is least like those before."""
    chosen = texts[:MAX_FARTHEST]
    if not chosen:
        return []
    table = signatures(word_shingles([normal_text(text) for text in chosen], SHINGLE_WORDS, short=True), len(chosen))
    nearest: NDArray[np.float64] = np.full(len(chosen), -1.0)
    found = []
    for _ in chosen:
        k = int(np.argmin(nearest))  # the first one of those that are equally far
        found.append(k)
        nearest = np.maximum(nearest, (table == table[k]).mean(1))
        nearest[k] = np.inf
    return [*found, *range(len(chosen), len(texts))]
