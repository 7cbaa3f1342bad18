"""`AutoregressiveWorld`: a language model as a small table: letters, an end token, a length limit.

All responses can be listed, so facts about tokens (end tokens, sums and means, the chain rule of KL) are checked on
complete sequences without sampling. `FiniteWorld` treats responses as a set without tokens.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tiltlm.core import ConfigError, ResponseLogps

TokenSequence = tuple[int, ...]
"""Token ids of a prefix or a response."""


@dataclass(frozen=True)
class AutoregressiveWorld:
    """Responses of at most `limit` tokens: letters, then the end token.

    After `limit` − 1 letters only the end token is possible: it has probability 1 and counts as a token. Every other
    prefix has its own row of logits. There are no truncated responses, so probabilities sum to 1.
    """

    num_letters: int = 2
    """Size of the alphabet."""
    limit: int = 3
    """Most tokens of a response, including the end token."""

    def __post_init__(self) -> None:
        if self.num_letters < 1 or self.limit < 2:
            raise ConfigError(
                f"num_letters is {self.num_letters} and limit is {self.limit}; there must be at least 1 letter and 2 "
                "tokens, or there is only one response",
                code="out_of_range",
                key="num_letters" if self.num_letters < 1 else "limit",
            )

    @property
    def end(self) -> int:
        """Id of the end token; the letters have the ids below it."""
        return self.num_letters

    @property
    def vocabulary(self) -> int:
        """V: the number of letters and the end token."""
        return self.num_letters + 1

    @cached_property
    def prefixes(self) -> tuple[TokenSequence, ...]:
        """The P prefixes after which several tokens are possible, shortest first: the rows of a table of logits."""
        lengths = range(self.limit - 1)
        return tuple(letters for n in lengths for letters in product(range(self.num_letters), repeat=n))

    @cached_property
    def sequences(self) -> tuple[TokenSequence, ...]:
        """All N responses, shortest first, each with its end token."""
        lengths = range(self.limit)
        return tuple((*s, self.end) for n in lengths for s in product(range(self.num_letters), repeat=n))

    @cached_property
    def num_tokens(self) -> Int[Tensor, " N"]:
        """T(y), including the end token."""
        return torch.tensor([len(s) for s in self.sequences])

    @cached_property
    def _rows(self) -> Int[Tensor, " R"]:
        """Row of the table that predicts each token of all responses; P if only the end token is possible."""
        row = {prefix: p for p, prefix in enumerate(self.prefixes)}
        return torch.tensor([row.get(s[:t], len(row)) for s in self.sequences for t in range(len(s))])

    def token_logps(self, logits: Float[Tensor, "P V"]) -> Float[Tensor, "P+1 V"]:
        """Return log-probabilities of the next token, row by row; in the last row only the end token is possible."""
        forced = torch.full((1, self.vocabulary), -torch.inf, dtype=logits.dtype)
        forced[0, self.end] = 0.0
        return torch.cat([torch.log_softmax(logits, 1), forced])

    def responses(self, logits: Float[Tensor, "P V"], ref_logits: Float[Tensor, "P V"] | None = None) -> ResponseLogps:
        """Return all N responses with the log-probabilities and extras of their tokens; gradient reaches `logits`.

        With a reference there are also its log-probabilities and the extras that read it. All of these are 0 where only
        the end token is possible.
        """
        table, rows = self.token_logps(logits), self._rows
        tokens = torch.tensor([token for sequence in self.sequences for token in sequence])
        plain = table.detach()
        responses = ResponseLogps(
            token_logps=table[rows, tokens],
            response_index=torch.repeat_interleave(torch.arange(len(self.sequences)), self.num_tokens),
            num_tokens=self.num_tokens,
            extras={
                "log_collisions": torch.logsumexp(2 * plain, 1)[rows],
                "entropies": _entropy(plain)[rows],
            },
        )
        if ref_logits is None:
            return responses
        reference = self.token_logps(ref_logits.detach())
        return replace(
            responses,
            ref_token_logps=reference[rows, tokens],
            extras={
                **responses.extras,
                "ref_kls": _kl(reference, table)[rows],
                "ref_entropy_shares": _entropy(reference)[rows] / math.log(reference.shape[1]),
            },
        )

    def seq_logps(self, logits: Float[Tensor, "P V"]) -> Float[Tensor, " N"]:
        """Return log π(y) of every response, nats."""
        return self.responses(logits).seq_logps

    def row_kl(self, logits: Float[Tensor, "P V"], base: Float[Tensor, "P V"]) -> Float[Tensor, "P+1"]:
        """Return KL(π(·|prefix)‖base(·|prefix)) of each row, nats; 0 if only the end token is possible."""
        return _kl(self.token_logps(logits), self.token_logps(base))

    def reach(self, logits: Float[Tensor, "P V"]) -> Float[Tensor, " P"]:
        """Return π(prefix), the probability that a response begins with each of `prefixes`."""
        table, row = self.token_logps(logits), {prefix: p for p, prefix in enumerate(self.prefixes)}
        steps = [[(row[prefix[:t]], prefix[t]) for t in range(len(prefix))] for prefix in self.prefixes]
        return torch.stack([sum((table[p, v] for p, v in step), table.new_zeros(())) for step in steps]).exp()

    def logits_of(self, seq_logps: Float[Tensor, " N"]) -> Float[Tensor, "P V"]:
        """Return the table whose responses have these log-probabilities; every distribution over them has one.

        π(v|prefix) is the mass of the responses that begin with the prefix and v, divided by that of the prefix.
        """
        rows = []
        for prefix in self.prefixes:
            mass = []
            for v in range(self.vocabulary):
                begins = [s[: len(prefix) + 1] == (*prefix, v) for s in self.sequences]
                mass.append(torch.logsumexp(seq_logps[torch.tensor(begins)], 0))
            rows.append(torch.stack(mass))
        return torch.log_softmax(torch.stack(rows), 1)


def _kl(table: Float[Tensor, "P V"], base: Float[Tensor, "P V"]) -> Float[Tensor, " P"]:
    """Return the KL divergence row by row; a token without mass adds 0, and its gradient stays finite."""
    some = table.detach() > -torch.inf
    gap = torch.where(some, table, 0.0) - torch.where(some, base, 0.0)
    return (table.exp() * gap).sum(1)


def _entropy(table: Float[Tensor, "P V"]) -> Float[Tensor, " P"]:
    """Return the entropy row by row, nats."""
    return -(table.exp() * torch.where(table > -torch.inf, table, 0.0)).sum(1)
