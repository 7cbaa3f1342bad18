"""KTO's mismatched pairs: every response meets the prompt of another row, the same one in every epoch and run.

The map is a permutation without fixed points, a pure function of the rows' tokens, so the reference store can keep its
log-probabilities; it never depends on seed, batch size, packs or order of rows.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from tiltlm.core.errors import DataError
from tiltlm.core.example import Example, Response, TokenIds
from tiltlm.data.tokenize import cut_right


def assign_partners(examples: Sequence[Example], max_length: int, *, part: str = "training") -> list[Example]:
    """The examples with, for each response, a partner: a whole response to a different prompt.

    All responses are sorted by a digest of (prompt, response), which puts those of one prompt side by side, and moved
    on by the size of the largest such group; so no response lands on its own prompt, and each is used once. An
    appended row changes the partners of its neighbours in that order only, as long as the largest group stays.
    A partner that does not fit `max_length` behind its new prompt is cut on the right.

    Raises:
        DataError: one prompt has more than half of the responses, so some must meet their own.
    """
    rows = [(e, k) for e, example in enumerate(examples) for k in range(len(example.responses))]
    rows.sort(key=lambda row: _order(examples[row[0]], row[1]))
    sizes = Counter(examples[e].prompt_ids.tobytes() for e, _ in rows)
    largest = max(sizes.values(), default=0)
    if 2 * largest > len(rows):
        raise DataError(
            f"one prompt has {largest} of the {len(rows)} {part} responses; KTO's baseline sets each response against "
            f"another prompt, so none may have more than half. Add {part} rows of other prompts"
        )
    partners: dict[tuple[int, int], Response] = {}
    for i, (e, k) in enumerate(rows):
        other, j = rows[(i + largest) % len(rows)]
        partners[e, k] = _whole(examples[other].responses[j], examples[e].prompt_ids, max_length)
    return [
        replace(example, partners=tuple(partners[e, k] for k in range(len(example.responses))))
        for e, example in enumerate(examples)
    ]


def _order(example: Example, k: int) -> tuple[bytes, bytes]:
    return _digest(example.prompt_ids), _digest(example.responses[k].token_ids)


def _digest(ids: TokenIds) -> bytes:
    return hashlib.sha256(ids.tobytes()).digest()


def _whole(response: Response, prompt_ids: TokenIds, max_length: int) -> Response:
    """The response with every token scored and no reference value: that was for its own prompt."""
    bare = replace(response, scored=None, ref_logps=None)
    return cut_right(bare, max_length - len(prompt_ids))
