"""KTO's mismatched pairs: every response meets the prompt of another row, the same one in every epoch and run.

The map is a permutation without fixed points, a pure function of the rows' tokens, so the reference store can keep its
log-probabilities; it never depends on seed, batch size, packs or order of rows.
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
"""Bytes of a prompt and of a response to sort by."""


def assign_partners(examples: Sequence[Example], max_length: int, *, part: str = "training") -> Sequence[Example]:
    """The examples with, for each response, a partner: a whole response to a different prompt.

    All responses are sorted by a digest of (prompt, response), which puts those of one prompt side by side, and moved
    on by the size of the largest such group; so no response lands on its own prompt, and each is used once. An
    appended row changes the partners of its neighbours in that order only, as long as the largest group stays.
    A partner that does not fit `max_length` behind its new prompt is cut on the right.

    Raises:
        DataError: one prompt has more than half of the responses, so some must meet their own.
    """
    first = np.cumsum([0, *(len(example.responses) for example in examples)])
    digests = b"".join(digest for example in examples for digest in _digests(example))
    table = np.frombuffer(digests, f"S{2 * DIGEST}")
    order = np.argsort(table, kind="stable")
    prompts = np.frombuffer(digests, [("prompt", f"S{DIGEST}"), ("response", f"S{DIGEST}")])["prompt"]
    largest = int(np.unique(prompts, return_counts=True)[1].max(initial=0))
    if 2 * largest > len(order):
        raise DataError(
            f"one prompt has {largest} of the {len(order)} {part} responses; KTO's baseline sets each response against "
            f"another prompt, so none may have more than half. Add {part} rows of other prompts",
            code="prompt_above_half",
        )
    partner = np.empty_like(order)
    partner[order] = np.roll(order, -largest)
    return WithPartners(examples, first, partner, max_length)


class WithPartners(OnDemand):
    """Examples that meet their partners when they are asked for."""

    def __init__(
        self, examples: Sequence[Example], first: NDArray[np.int64], partner: NDArray[np.int64], max_length: int
    ) -> None:
        """Put examples and partners together.

        Args:
            examples: the rows.
            first: number of each example's first response among all responses; one more at the end.
            partner: for each response the number of its partner.
            max_length: of a prompt with a partner.
        """
        self._examples, self._first, self._partner, self._max_length = examples, first, partner, max_length

    def __len__(self) -> int:
        return len(self._examples)

    def _example(self, row: int) -> Example:
        example = self._examples[row]
        numbers = self._partner[self._first[row] : self._first[row + 1]]
        return replace(
            example,
            partners=tuple(_whole(self._response(number), example.prompt_ids, self._max_length) for number in numbers),
        )

    def _response(self, number: int) -> Response:
        row = int(np.searchsorted(self._first, number, side="right")) - 1
        response: Response = self._examples[row].responses[number - self._first[row]]
        return response


def _digests(example: Example) -> Iterator[bytes]:
    """For each response, its prompt and itself in a few bytes."""
    prompt = _digest(example.prompt_ids)
    for response in example.responses:
        yield prompt + _digest(response.token_ids)


def _digest(ids: TokenIds) -> bytes:
    return hashlib.sha256(ids.tobytes()).digest()[:DIGEST]


def _whole(response: Response, prompt_ids: TokenIds, max_length: int) -> Response:
    """The response with every token scored and no reference value: that was for its own prompt."""
    bare = replace(response, scored=None, ref_logps=None)
    return cut_right(bare, max_length - len(prompt_ids))
