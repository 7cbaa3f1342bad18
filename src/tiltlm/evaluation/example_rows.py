"""Rewards of every response of a data set, and a policy's log-probabilities, without gradient: all held-out numbers
read them.

A measurement before training and one after it are two tables of the same rows; `held_out` says what changed.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tiltlm.core import (
    Comparison,
    ConfigError,
    Example,
    NumericsError,
    ResponseLogps,
    ResponseScores,
    Tree,
    build_trees,
    pack_trees,
    with_score_token,
)
from tiltlm.logprobs import plan
from tiltlm.logprobs.modes import evaluating
from tiltlm.objectives import Objective
from tiltlm.objectives.terms import reads_scores
from tiltlm.reference import Reference


@dataclass(frozen=True)
class ResponseRow:
    """One response under a policy."""

    logps: float | None
    """S(y): log-probability of its scored tokens, summed, in nats; None of a reward model."""
    ref_logps: float | None
    """The same under the reference; None where there is none."""
    num_tokens: int
    """Scored tokens, at least 1."""
    reward: float
    """The objective's reward, in its units."""

    @property
    def mean_logps(self) -> float | None:
        """A(y), nats per token."""
        return None if self.logps is None else self.logps / self.num_tokens


@dataclass(frozen=True)
class ExampleRow:
    """One example under a policy, with what the data says about it."""

    id: str
    prompt: str
    """Digest of the prompt's tokens: rows with the same prompt are not independent."""
    responses: tuple[ResponseRow, ...]
    comparisons: tuple[Comparison, ...] = ()
    labels: tuple[bool, ...] = ()


def prompt_key(prompt_ids: NDArray[np.int32]) -> str:
    """A short digest of a prompt's tokens, equal for equal prompts."""
    return blake2b(prompt_ids.tobytes(), digest_size=8).hexdigest()


def sequence_logps(
    module: nn.Module, trees: Sequence[Tree], reference: Reference | None, max_tokens: int
) -> Iterator[tuple[NDArray[np.intp], ResponseLogps]]:
    """Forwards over trees in packs of at most `max_tokens` input tokens.

    Yields:
        Which of the N responses of `pack_trees(trees)` a pack holds, and their log-probabilities, the reference's
        beside them where there is one.
    """
    first = np.concatenate([[0], np.cumsum([len(tree.responses) for tree in trees])])
    for pack in plan([tree.num_tokens for tree in trees], max_tokens):
        own = [trees[t] for t in pack]
        responses: ResponseLogps = module(pack_trees(own))
        if reference is not None:
            responses = reference.attach(responses, own)
        yield np.concatenate([np.arange(first[t], first[t + 1]) for t in pack]), responses


def measure_examples(
    module: nn.Module, examples: Sequence[Example], objective: Objective, reference: Reference | None, max_tokens: int
) -> tuple[ExampleRow, ...]:
    """Every response of these examples under a policy, in the order of the examples.

    Args:
        module: Forest → ResponseLogps, or ResponseScores where the objective reads those; with several processes the
            wrapped root, called by all of them alike.
        examples: Each prompt, and each response to it, is computed once.
        objective: Whose reward is reported.
        reference: None where the objective needs none and none is wanted.
        max_tokens: Input tokens of a forward.

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
    num_responses = sum(len(tree.responses) for tree in trees)
    table = np.full((3, num_responses), np.nan)
    read = trees if is_policy else with_score_token(trees)
    with evaluating(module), torch.no_grad():
        for index, responses in sequence_logps(module, read, reference, max_tokens):
            table[:, index] = _columns(responses, objective)
    return tuple(_row(example, own, table, is_policy) for example, own in zip(examples, slots, strict=True))


def _columns(responses: ResponseLogps, objective: Objective) -> NDArray[np.float64]:
    """[3, N]: log-probability, the reference's, reward; NaN what is not known."""
    rewards = objective.reward(responses)
    if isinstance(responses, ResponseScores):
        unknown = torch.full_like(rewards, torch.nan)
        return torch.stack([unknown, unknown, rewards]).detach().cpu().double().numpy()
    logps = responses.seq_logps
    has_reference = responses.ref_seq_logps is not None or responses.ref_token_logps is not None
    ref_logps = responses.ref_sums if has_reference else torch.full_like(logps, torch.nan)
    columns = torch.stack([logps, ref_logps.to(logps), rewards.to(logps)])
    return columns.detach().cpu().double().numpy()


def _row(example: Example, slots: Sequence[int], table: NDArray[np.float64], is_policy: bool) -> ExampleRow:
    responses = []
    for k, (slot, response) in enumerate(zip(slots, example.responses, strict=True)):
        logps, ref_logps, reward = table[:, slot].tolist()
        if not math.isfinite(reward) or (is_policy and not math.isfinite(logps)):
            likely = f"log-probability {logps} and " if is_policy else ""
            raise NumericsError(
                f"{example.id}: response {k} has {likely}reward {reward} under this model; its weights are damaged, or "
                "training diverged",
                code="not_finite",
                row=example.id,
            )
        known = None if math.isnan(ref_logps) else ref_logps
        responses.append(ResponseRow(logps if is_policy else None, known, response.num_tokens, reward))
    return ExampleRow(
        id=example.id,
        prompt=prompt_key(example.prompt_ids),
        responses=tuple(responses),
        comparisons=example.comparisons,
        labels=example.labels,
    )
