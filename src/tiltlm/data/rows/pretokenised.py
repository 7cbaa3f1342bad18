"""Read rows of token ids: training uses exactly the tokens that were sampled.

Nothing is tokenised, added or removed. The ids must be in the tokenizer's vocabulary, and a response must end as its
row says.
"""

from collections.abc import Collection, Mapping
from typing import Any

from tiltlm.core.example import Response, TokenIds, token_ids
from tiltlm.data.accounting import Defect
from tiltlm.data.rows import cells
from tiltlm.data.rows.cells import Content, TokenContent
from tiltlm.data.rows.roles import ENDED, TOKENS


def read_tokens(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a row with its token ids under the roles that they replace.

    Raises:
        Defect: A value is not a list of token ids, or the prompt is missing or empty.
    """
    read = {role: value for role, value in values.items() if role not in TOKENS}
    for column in TOKENS.keys() & values.keys():
        role = TOKENS[column]
        if role == "completions":
            lists = cells.items(column, values[column])
            flags = cells.each(values, ENDED[role], len(lists)) or [None] * len(lists)
            read[role] = [_tokens(column, ids, ENDED[role], e) for ids, e in zip(lists, flags, strict=True)]
        elif role == "prompt":
            read[role] = TokenContent(cells.ids(column, values[column]))
        else:
            read[role] = _tokens(column, values[column], ENDED[role], values.get(ENDED[role]))
    if "prompt" not in read or not read["prompt"].ids:
        raise Defect("missing_value", "prompt_ids is missing or empty")
    return read


def _tokens(column: str, ids: object, ended_column: str, ended: object) -> TokenContent:
    return TokenContent(cells.ids(column, ids), None if ended is None else cells.label(ended_column, ended))


def prompt_as_given(content: Content, vocabulary: int) -> TokenIds:
    """Return the ids of a prompt.

    Args:
        content: The prompt.
        vocabulary: Number of tokens of the tokenizer.

    Raises:
        Defect: An id is not below `vocabulary`.
    """
    assert isinstance(content, TokenContent), "prompt and responses are all token ids, or none of them"
    unknown = [i for i in content.ids if not 0 <= i < vocabulary]
    if unknown:
        raise Defect("unknown_token", f"id {unknown[0]}, vocabulary of {vocabulary}")
    return token_ids(content.ids)


def response_as_given(
    content: Content, ref_logps: float | None, vocabulary: int, end: int, specials: Collection[int]
) -> Response:
    """Return a response with exactly the ids of the row.

    If the row does not say whether the response ended by itself, it did if its last token is a special token. Any
    special token counts, because the model and the sampler decide which of them end a response.

    Args:
        content: The response.
        ref_logps: Its reference log-probability, summed, in nats.
        vocabulary: Number of tokens of the tokenizer.
        end: The model's end token.
        specials: All special tokens, including `end`.

    Raises:
        Defect: An id is not in the vocabulary, the last token contradicts the row, or tokens follow the end token.
    """
    ids = prompt_as_given(content, vocabulary)
    assert isinstance(content, TokenContent)
    last = content.ids[-1]
    ended = last in specials if content.ended is None else content.ended
    if ended and last not in specials:
        raise Defect("wrong_end", f"it ended by itself, but its last token {last} is not a special token")
    if not ended and last == end:
        raise Defect("wrong_end", f"it did not end by itself, but its last token {last} is the end token")
    closing = last if ended else end
    if closing in content.ids[:-1]:
        raise Defect("end_inside", f"end token at position {content.ids.index(closing)} of {len(ids)}")
    return Response(ids, ended, ref_logps=ref_logps)
