"""CHES: how alike the policy sees the two responses of a comparison, before training.

Training on two responses with similar hidden states pulls both log-probabilities the same way, so the better one can
lose probability too. With h the state that predicts a token (after the last norm):

    CHES = ⟨Σ_k h(x, y⁺_<k), Σ_k h(x, y⁻_<k)⟩ − ‖Σ_k h(x, y⁺_<k)‖²

A larger value means more displacement. The form per token divides the first term by T₊·T₋ and the second by T₊², so it
does not grow with length. Both are in squared units of the hidden state, so only values of one model compare.

Source: Razin et al. 2024 (arXiv:2410.08847), definitions 2 and 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

from tiltlm.core import Example, ModelError, Tree, build_trees, pack_trees
from tiltlm.diagnostics import Interval, bootstrap, unit_means
from tiltlm.distributed import Ranks
from tiltlm.evaluation.example_rows import measure_responses, on_host
from tiltlm.logprobs import PolicyModule
from tiltlm.logprobs.module import evaluating

Floats = NDArray[np.float64]

CHUNK = 256
"""Examples whose sums of states are in memory at the same time."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
RESAMPLES = 1_000


def ches(chosen: Floats, rejected: Floats) -> Floats:
    """Return ⟨a, b⟩ − ‖a‖² for each row: sums of states of chosen and rejected responses, [B, D] each → [B]."""
    products: Floats = np.einsum("bd,bd->b", chosen, rejected - chosen)
    return products


@dataclass(frozen=True)
class Ches:
    """CHES per token of the comparisons of a data set under one policy."""

    num_comparisons: int
    quantiles: dict[str, float]
    """Value below which 5, 25, 50, 75 and 95 % of the comparisons lie."""
    with_shift: Interval | None = None
    """Rank correlation (Spearman) with the change of the better response's log-probability in training, over held-out
    prompts. Below 0: pairs of similar responses lost more. None if it was not measured."""


def comparison_ches(
    module: PolicyModule, examples: Sequence[Example], max_tokens: int, ranks: Ranks | None = None
) -> list[Floats]:
    """Return CHES per token of each example's comparisons, one array an example.

    Args:
        module: The policy itself, not a wrapper around it.
        examples: Rows of data with comparisons.
        max_tokens: Most input tokens of one forward.
        ranks: Processes that share the forwards; all must call this function together. None: this one alone.

    Raises:
        ModelError: the model's head has an unknown form, so its last states are not known.
    """
    if module.head.route == "model":
        raise ModelError(
            f"CHES needs the hidden states before the head, and those of {type(module.bare_model).__name__} are not "
            "known, because its head has a form of its own",
            code="not_supported",
        )
    found: list[Floats] = []
    with evaluating(module), torch.no_grad():
        for start in range(0, len(examples), CHUNK):
            found += _of_chunk(module, examples[start : start + CHUNK], max_tokens, ranks or Ranks())
    return found


def _of_chunk(module: PolicyModule, examples: Sequence[Example], max_tokens: int, ranks: Ranks) -> list[Floats]:
    trees, slots = build_trees(examples)
    means = measure_responses(trees, max_tokens, partial(_mean_states, module), ranks).T
    return [
        np.array(
            [ches(means[own[c.chosen]][None], means[own[c.rejected]][None])[0] for c in example.comparisons],
            dtype=np.float64,
        )
        for example, own in zip(examples, slots, strict=True)
    ]


def _mean_states(module: PolicyModule, trees: Sequence[Tree]) -> Floats:
    """Return [D, n]: the mean state that predicts a token of each response of these trees."""
    forest = pack_trees(trees).to(module.device)
    rows = module.states(forest).rows.float()
    sums = torch.zeros(forest.num_responses, rows.shape[1], device=rows.device)
    sums.index_add_(0, forest.response_index, rows)
    return on_host((sums / forest.num_tokens[:, None]).T)


def summarise_ches(
    values: Sequence[Floats],
    shifts: Sequence[float] | None = None,
    prompts: NDArray[np.intp] | None = None,
    *,
    level: float = 0.95,
    seed: int = 0,
) -> Ches | None:
    """Return the quantiles of CHES, and how it goes with displacement; None without comparisons.

    Args:
        values: CHES of each example's comparisons.
        shifts: Change of the better response's log-probability of each example, nats per response.
        prompts: Number of each example's prompt; the interval is over prompts.
        level: Share of repetitions in which the interval holds the truth.
        seed: Seed of the bootstrap.
    """
    flat = np.concatenate([v for v in values if v.size]) if any(v.size for v in values) else np.empty(0)
    if not flat.size:
        return None
    quantiles = {f"{100 * q:.0f} %": float(x) for q, x in zip(QUANTILES, np.quantile(flat, QUANTILES), strict=True)}
    correlation = None
    if shifts is not None and prompts is not None:
        compared = [i for i, v in enumerate(values) if v.size]
        means = np.array([values[i].mean() for i in compared])
        correlation = _rank_correlation(means, np.asarray(shifts)[compared], prompts[compared], level, seed)
    return Ches(len(flat), quantiles, correlation)


def _rank_correlation(a: Floats, b: Floats, units: NDArray[np.intp], level: float, seed: int) -> Interval | None:
    """Return Spearman's ρ of the units' means with an interval over units; None where one side does not vary."""
    x, y = unit_means(a, units), unit_means(b, units)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return None

    def correlation(draw: NDArray[np.intp]) -> Floats:
        ranks = [rankdata(side[draw], axis=1) - (len(x) + 1) / 2 for side in (x, y)]
        squares = [np.square(side).sum(1) for side in ranks]
        with np.errstate(invalid="ignore", divide="ignore"):
            rho: Floats = (ranks[0] * ranks[1]).sum(1) / np.sqrt(squares[0] * squares[1])
        return rho

    return bootstrap(correlation, len(x), level=level, seed=seed, resamples=RESAMPLES)
