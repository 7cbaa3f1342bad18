"""Tables of rewards and log-probabilities of the responses of a data set, computed without gradient.

All held-out numbers are computed from two such tables of the same rows, one before and one after training (`held_out`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tiltlm.core import (
    Comparison,
    ConfigError,
    Example,
    NumericsError,
    Responses,
    ResponseScores,
    Tree,
    build_trees,
    pack_trees,
    with_score_token,
)
from tiltlm.distributed import Ranks
from tiltlm.logprobs import plan
from tiltlm.logprobs.module import evaluating
from tiltlm.objectives import Objective
from tiltlm.objectives.terms import reads_scores
from tiltlm.reference import Reference

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ResponseRow:
    """One response under a policy or reward model."""

    logps: float | None
    """S(y): summed log-probability of the scored tokens, nats. None for a reward model."""
    num_tokens: int
    """Number of scored tokens, at least 1."""
    reward: float
    """The reward of the objective, in its units."""

    @property
    def mean_logps(self) -> float | None:
        """A(y): log-probability per token, nats. None for a reward model."""
        return None if self.logps is None else self.logps / self.num_tokens


@dataclass(frozen=True)
class ExampleRow:
    """One example under a policy or reward model, with the comparisons and labels of the data."""

    id: str
    prompt: str
    """Digest of the prompt's tokens. Rows with the same prompt are not independent."""
    responses: tuple[ResponseRow, ...]
    comparisons: tuple[Comparison, ...] = ()
    labels: tuple[bool, ...] = ()
    source: str = ""
    """Name of the data source."""


def prompt_key(prompt_ids: NDArray[np.int32]) -> str:
    """Return a short digest of a prompt's tokens, equal for equal prompts."""
    return blake2b(prompt_ids.tobytes(), digest_size=8).hexdigest()


def measure_responses(
    trees: Sequence[Tree], max_tokens: int, measure: Callable[[Sequence[Tree]], Floats], ranks: Ranks
) -> Floats:
    """Measure every response in packs of at most `max_tokens` input tokens; each process measures some of the packs.

    The packs do not depend on the number of processes, so neither does their rounding. All processes must call it
    together, with equal trees.

    Args:
        trees: Prompts and responses.
        max_tokens: Most input tokens of one forward.
        measure: Function from the trees of a pack to numbers of their responses, [..., n].
        ranks: The processes.

    Returns:
        [..., N] the numbers of all responses, in the order of `pack_trees(trees)`, equal in all processes.
    """
    first = np.concatenate([[0], np.cumsum([len(tree.responses) for tree in trees])])
    packs = plan([tree.num_tokens for tree in trees], max_tokens)
    found = ranks.map(lambda pack: measure([trees[t] for t in pack]), packs)
    order = np.concatenate([np.arange(first[t], first[t + 1]) for pack in packs for t in pack])
    numbers: Floats = np.concatenate(found, axis=-1)[..., np.argsort(order)]
    return numbers


def seq_logps(module: nn.Module, trees: Sequence[Tree], max_tokens: int, ranks: Ranks) -> Floats:
    """Return the log-probability of every response under a policy, [N] nats, in the order of `pack_trees(trees)`.

    The arguments are those of `measure_responses`.
    """
    with evaluating(module), torch.no_grad():
        return measure_responses(trees, max_tokens, lambda pack: on_host(module(pack_trees(pack)).seq_logps), ranks)


def on_host(numbers: Tensor) -> Floats:
    """Return numbers as a float64 array."""
    return numbers.detach().double().cpu().numpy()


def measure_examples(
    module: nn.Module,
    examples: Sequence[Example],
    objective: Objective,
    reference: Reference | None,
    max_tokens: int,
    ranks: Ranks | None = None,
) -> tuple[ExampleRow, ...]:
    """Measure every response of the examples under a policy or reward model, in the order of the examples.

    Args:
        module: From a forest to ResponseLogps, or to ResponseScores if the objective reads those.
        examples: The examples. Each distinct prompt and response is computed once.
        objective: The objective whose reward is measured.
        reference: The reference of that reward; None if the objective needs none.
        max_tokens: Most input tokens of one forward.
        ranks: Processes that share the forwards; all must call this function together. None: this one alone.

    Raises:
        ConfigError: there are no examples, or the objective needs a reference.
        NumericsError: a log-probability or reward is not finite.
    """
    if not examples:
        raise ConfigError(
            "no held-out examples to measure; hold some out (data.eval_fraction, data.eval)",
            code="needs_held_out",
            key="data.eval_fraction",
        )
    trees, slots = build_trees(examples)
    is_policy = not reads_scores(objective)
    read_trees = trees if is_policy else with_score_token(trees)

    def measure(pack: Sequence[Tree]) -> Floats:
        responses: Responses = module(pack_trees(pack))
        if reference is not None and not isinstance(responses, ResponseScores):
            responses = reference.attach(responses, pack)
        return _columns(responses, objective)

    with evaluating(module), torch.no_grad():
        table = measure_responses(read_trees, max_tokens, measure, ranks or Ranks())
    return tuple(_row(example, places, table, is_policy) for example, places in zip(examples, slots, strict=True))


def _columns(responses: Responses, objective: Objective) -> NDArray[np.float64]:
    """Return [2, N]: log-probability (NaN for a reward model) and reward of each response."""
    rewards = objective.reward(responses)
    logps = torch.full_like(rewards, torch.nan) if isinstance(responses, ResponseScores) else responses.seq_logps
    return on_host(torch.stack([logps, rewards.to(logps)]))


def _row(example: Example, slots: Sequence[int], table: NDArray[np.float64], is_policy: bool) -> ExampleRow:
    responses = []
    for k, (slot, response) in enumerate(zip(slots, example.responses, strict=True)):
        logps, reward = table[:, slot].tolist()
        if not math.isfinite(reward) or (is_policy and not math.isfinite(logps)):
            log_probability = f"log-probability {logps} and " if is_policy else ""
            raise NumericsError(
                f"{example.id}: response {k} has {log_probability}reward {reward} under this model; its weights are "
                "damaged, or training diverged",
                code="not_finite",
                row=example.id,
            )
        responses.append(ResponseRow(logps if is_policy else None, response.num_tokens, reward))
    return ExampleRow(
        id=example.id,
        prompt=prompt_key(example.prompt_ids),
        responses=tuple(responses),
        comparisons=example.comparisons,
        labels=example.labels,
        source=example.source,
    )
