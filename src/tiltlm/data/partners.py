"""Make KTO's mismatched pairs: each response gets a partner, a response to another prompt.

The map from responses to partners is a permutation without fixed points and a pure function of the rows' tokens. It
does not depend on the seed, the batch size, the packs or the order of rows, so it is the same in every epoch and run,
and the reference store can keep the log-probabilities.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tiltlm.core.errors import DataError
from tiltlm.core.example import Example, Response, TokenIds
from tiltlm.data.cache.lazy import OnDemand
from tiltlm.data.tokens.length_limit import cut_right

DIGEST = 16
"""Bytes of a digest of a prompt or a response."""


def assign_partners(examples: Sequence[Example], max_length: int, *, part: str = "training") -> Sequence[Example]:
    """Return the examples with a partner for each response: a whole response to a different prompt.

    All responses are sorted by a digest of (prompt, response), so that those of one prompt are neighbours. Then they
    are shifted by the size of the largest such group. So no response gets a partner of its own prompt, and each is a
    partner once. If the size of the largest group stays the same, an appended row changes only the partners of its
    neighbours in that order.

    Args:
        examples: The rows.
        max_length: Most tokens of a prompt with a partner. A longer partner loses its last tokens.
        part: Name of this part of the data, for the error message.

    Raises:
        DataError: One prompt has more than half of the responses.
    """
    first = np.cumsum([0, *(len(example.responses) for example in examples)])
    digests = b"".join(digest for example in examples for digest in _digests(example))
    table = np.frombuffer(digests, f"S{2 * DIGEST}")
    order = np.argsort(table, kind="stable")
    prompts = np.frombuffer(digests, [("prompt", f"S{DIGEST}"), ("response", f"S{DIGEST}")])["prompt"]
    largest = int(np.unique(prompts, return_counts=True)[1].max(initial=0))
    if 2 * largest > len(order):
        way_out = "Add rows with other prompts"
        if part == "held-out":
            way_out = "Hold out more prompts (data.eval_fraction), or name other held-out data (data.eval)"
        raise DataError(
            f"one prompt has {largest} of the {len(order)} {part} responses, but at most half are allowed: KTO's "
            f"baseline puts each response after another prompt. {way_out}",
            code="prompt_above_half",
            key="data.eval_fraction" if part == "held-out" else "data.train",
        )
    partner = np.empty_like(order)
    partner[order] = np.roll(order, -largest)
    return WithPartners(examples, first, partner, max_length)


class WithPartners(OnDemand):
    """Examples whose partners are added on each access."""

    def __init__(
        self, examples: Sequence[Example], first: NDArray[np.int64], partner: NDArray[np.int64], max_length: int
    ) -> None:
        """Combine examples and partners.

        Args:
            examples: The rows.
            first: For each example, the number of its first response among all responses; then the number of responses.
            partner: For each response, the number of its partner.
            max_length: Most tokens of a prompt with a partner.
        """
        self._examples, self._first, self._partner, self._max_length = examples, first, partner, max_length

    def __len__(self) -> int:
        return len(self._examples)

    def _example(self, row: int) -> Example:
        example = self._examples[row]
        numbers = self._partner[self._first[row] : self._first[row + 1]]
        return replace(
            example,
            partners=tuple(
                _as_partner(self._response(number), example.prompt_ids, self._max_length) for number in numbers
            ),
        )

    def _response(self, number: int) -> Response:
        row = int(np.searchsorted(self._first, number, side="right")) - 1
        response: Response = self._examples[row].responses[number - self._first[row]]
        return response


def _digests(example: Example) -> Iterator[bytes]:
    """Yield the digest of the prompt followed by that of the response, for each response."""
    prompt = _digest(example.prompt_ids)
    for response in example.responses:
        yield prompt + _digest(response.token_ids)


def _digest(ids: TokenIds) -> bytes:
    return hashlib.sha256(ids.tobytes()).digest()[:DIGEST]


def _as_partner(response: Response, prompt_ids: TokenIds, max_length: int) -> Response:
    """Return the response with all tokens scored. Its reference value belonged to its own prompt, so it is removed."""
    bare = replace(response, scored=None, ref_logps=None)
    return cut_right(bare, max_length - len(prompt_ids))
