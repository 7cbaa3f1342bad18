"""Rows that bring their own token ids: what a sampler drew goes into training as the very tokens that were drawn.

Nothing is tokenised, added or taken away; what is checked is that the ids can be this tokenizer's and that a response
ends as its row says.
"""

from collections.abc import Collection, Mapping
from typing import Any

from tiltlm.core.example import Response, TokenIds, token_ids
from tiltlm.data.accounting import Defect
from tiltlm.data.rows import cells
from tiltlm.data.rows.cells import Content, TokenContent
from tiltlm.data.rows.columns import ENDED, TOKENS


def read_tokens(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a row with its token ids in the place of the text that they stand for.

    Raises:
        Defect: ids that are none, or no prompt.
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
        raise Defect("missing_value", "prompt_ids holds no token")
    return read


def _tokens(column: str, ids: object, ended_column: str, ended: object) -> TokenContent:
    return TokenContent(cells.ids(column, ids), None if ended is None else cells.label(ended_column, ended))


def prompt_as_given(content: Content, vocabulary: int) -> TokenIds:
    """These ids, all of which are below `vocabulary`.

    Raises:
        Defect: an id is not the tokenizer's.
    """
    assert isinstance(content, TokenContent), "prompt and responses are all token ids, or none is"
    strange = [i for i in content.ids if not 0 <= i < vocabulary]
    if strange:
        raise Defect("unknown_token", f"id {strange[0]} with a vocabulary of {vocabulary}")
    return token_ids(content.ids)


def response_as_given(
    content: Content, ref_logps: float | None, vocabulary: int, end: int, specials: Collection[int]
) -> Response:
    """A response of these ids.

    Where the row does not say whether it ended by itself, it did if its last token is a special one: which of them end
    a response depends on the model and on the sampler.

    Args:
        end: the model's end token.
        specials: all special tokens, `end` among them.

    Raises:
        Defect: an id is not the tokenizer's, the end contradicts the row's flag, or tokens follow the end token.
    """
    ids = prompt_as_given(content, vocabulary)
    assert isinstance(content, TokenContent)
    last = content.ids[-1]
    ended = last in specials if content.ended is None else content.ended
    if ended and last not in specials:
        raise Defect("wrong_end", f"it ended by itself, and its last token {last} is no special token")
    if not ended and last == end:
        raise Defect("wrong_end", f"it did not end by itself, and its last token {last} is the end token")
    closing = last if ended else end
    if closing in content.ids[:-1]:
        raise Defect("end_inside", f"token {content.ids.index(closing)} of {len(ids)}")
    return Response(ids, ended, ref_logps=ref_logps)
