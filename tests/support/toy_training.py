"""Ten-line fakes for training: a policy that is an embedding table, a reference that is a frozen copy, made-up rows."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from tiltlm.core import (
    Comparison,
    Credit,
    Example,
    Forest,
    Pairs,
    Response,
    ResponseLogps,
    ResponseScores,
    Tree,
    pack_trees,
    token_ids,
)
from tiltlm.objectives.terms import Divisor, Term
from tiltlm.reference import Reference
from tiltlm.rewards import SeqLogp

VOCABULARY = 11


class Layer(nn.Module):
    """What a sharded policy shards."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + torch.tanh(self.linear(hidden))


class ToyPolicy(nn.Module):
    """Forest → ResponseLogps, where a token depends on the one before it and on its position."""

    _no_split_modules: ClassVar[list[str]] = ["Layer"]

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float32, width: int = 6) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.layer = Layer(width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        self.to(dtype)
        self.num_forwards = 0
        self.poisoned: set[int] = set()
        """Forwards, from 1, whose result is multiplied by infinity: a stand-in for overflow."""

    def logits(self, forest: Forest) -> Tensor:
        ids, places = forest.token_ids, forest.position_ids
        hidden = self.embedding(ids) * (1 + 0.01 * places.to(self.embedding.weight.dtype))[:, None]
        return self.head(self.norm(self.layer(hidden)).index_select(0, forest.predicts))

    def forward(self, forest: Forest) -> ResponseLogps:
        self.num_forwards += 1
        token_logps = torch.log_softmax(self.logits(forest), -1).gather(1, forest.targets[:, None]).sum(1)
        if self.num_forwards in self.poisoned:
            token_logps = token_logps * torch.inf
        return ResponseLogps(token_logps, forest.response_index, forest.num_tokens)


class ToyScorer(ToyPolicy):
    """Forest → ResponseScores: one of the numbers that a token's state gives."""

    def forward(self, forest: Forest) -> ResponseScores:
        self.num_forwards += 1
        return ResponseScores(self.logits(forest)[:, 0], forest.num_tokens)


class ToyReference(Reference):
    """A frozen copy of a policy."""

    def __init__(self, policy: nn.Module, name: str = "initial") -> None:
        self.name, self.digest, self.starts_as_policy = name, "0" * 8, True
        self._frozen = copy.deepcopy(policy).requires_grad_(False)

    def attach(self, responses: ResponseLogps, trees: Sequence[Tree]) -> ResponseLogps:
        with torch.no_grad():
            return responses.with_reference(self._frozen(pack_trees(trees)).token_logps)


@dataclass(frozen=True)
class SortedMargins:
    """A coupled objective, like AOT: the i-th best chosen response is compared with the i-th best rejected one.

    Weights belong to rows and would say nothing here.
    """

    reward: SeqLogp = SeqLogp()  # noqa: RUF009
    view: ClassVar[type[Pairs]] = Pairs
    coupled: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = False
    shape: ClassVar[str] = "pairs"
    statistic: ClassVar[None] = None
    needs: ClassVar[frozenset] = frozenset()
    uses: ClassVar[frozenset] = frozenset()
    extras: ClassVar[frozenset] = frozenset()

    def __call__(self, responses: ResponseLogps, pairs: Pairs, /) -> tuple[Term, ...]:
        rewards = self.reward(responses)
        margin = rewards[pairs.chosen].sort().values - rewards[pairs.rejected].sort().values
        return (Term(softplus(-margin), pairs.example, Divisor.EXAMPLES),)


def answer(rng: np.random.Generator, longest: int = 7) -> Response:
    return Response(token_ids(rng.integers(0, VOCABULARY, size=rng.integers(1, longest))))


def rows(num: int, seed: int = 0, shared_prompts: bool = True) -> list[Example]:
    """Pairs with labels, scores and partners, so that every objective can read them; some share a prompt."""
    rng = np.random.default_rng(seed)
    prompts = [token_ids(rng.integers(0, VOCABULARY, size=rng.integers(1, 6))) for _ in range(num)]
    examples = []
    for i in range(num):
        prompt = prompts[i // 2 * 2] if shared_prompts and i % 4 == 1 else prompts[i]
        examples.append(
            Example(
                id=f"row-{i}",
                prompt_ids=prompt,
                responses=(answer(rng), answer(rng)),
                comparisons=(
                    Comparison(0, 1, preference=float(rng.uniform(0.6, 1)), offset=float(rng.uniform(0, 0.2))),
                ),
                labels=(True, False),
                ranks=(1, 2),
                scores=(float(rng.uniform(1, 2)), float(rng.uniform(0, 1))),
                weight=float(rng.uniform(0.5, 2)),
                partners=(answer(rng), answer(rng)),
            )
        )
        credits = tuple(
            Credit(float(rng.normal()), -rng.exponential(2.0, response.num_tokens).astype(np.float32))
            for response in examples[-1].responses
        )
        examples[-1] = replace(examples[-1], credits=credits)
    return examples


class Killed(Exception):
    """Stands for SIGKILL: nothing of ours may catch it."""


def without_times(records):
    """Return metrics records without what differs from run to run: the seconds."""
    return [{k: v for k, v in record.items() if "seconds" not in k} for record in records]
