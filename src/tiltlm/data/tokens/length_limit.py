"""Turn records into examples within a length limit, with the same cut for all responses of a prompt.

If only one response of a pair were cut, the policy would learn the difference between cut and whole responses. So the
longest response decides for the whole row.
"""

from bisect import bisect_left
from dataclasses import replace

import numpy as np

from tiltlm.core.errors import DataError
from tiltlm.core.example import Example, Response, TokenIds, token_ids
from tiltlm.data.accounting import Defect
from tiltlm.data.data_settings import LONGEST, Truncation
from tiltlm.data.rows.prompts import shorter_prompts
from tiltlm.data.rows.records import Record
from tiltlm.data.tokens.encoder import Encoded, Encoder


def longest_allowed(max_length: int | None, window: int | None) -> int:
    """Return the most tokens of a prompt with one response: `max_length`, else the model's window or `LONGEST`.

    Args:
        max_length: The setting. None: the smaller of `window` and `LONGEST`.
        window: Longest sequence the model accepts. None: no limit.

    Raises:
        DataError: The setting exceeds the window.
    """
    if max_length is None:
        return LONGEST if window is None else min(window, LONGEST)
    if window is not None and max_length > window:
        raise DataError(
            f"data.max_length={max_length}: must be at most {window} tokens, the model's window",
            code="beyond_window",
            key="data.max_length",
        )
    return max_length


def without_oldest_turns(record: Record, encoder: Encoder, max_length: int) -> Encoded | None:
    """Remove as few of the oldest turns as possible so that the record fits, and encode it.

    The shorter conversation is rendered again, with system turns and beginning token, as at inference.

    Returns:
        The shorter record as tokens, or None if it does not fit even with only the last user turn.

    Raises:
        Defect: The chat template raises an error for the shorter conversation.
    """
    prompts = shorter_prompts(record.prompt)
    encoded: dict[int, Encoded] = {}

    def fits(k: int) -> bool:
        encoded[k] = encoder.encode(replace(record, prompt=prompts[k]))
        return encoded[k].num_tokens <= max_length

    k = bisect_left(range(len(prompts)), True, key=fits)
    if k == len(prompts):
        return None
    return replace(encoded[k], changes=(*encoded[k].changes, "turns_cut"))


def to_example(
    record: Record, encoded: Encoded, max_length: int, truncation: Truncation, begin: int | None
) -> tuple[Example, list[str]]:
    """Return the example of a record, and what was changed.

    Args:
        record: The row.
        encoded: Its tokens.
        max_length: Most tokens of a prompt with one response.
        truncation: What to do if the row is longer.
        begin: The beginning token; a cut prompt keeps it. None: there is none.

    Returns:
        The example, and keys of `tiltlm.data.accounting.CHANGES`.

    Raises:
        Defect: The row cannot be used or does not fit.
        DataError: The row does not fit, under `truncation="error"`.
    """
    prompt_ids, responses, cut = fit_length(record.location, encoded, max_length, truncation, begin)
    changes = [*record.changes, *encoded.changes, *cut]
    removed = [*cut, *(change for change in encoded.changes if change == "turns_cut")]
    if removed and record.ref_logps:
        raise Defect("reference_of_other_tokens", ", ".join(removed))
    comparisons = tuple(c for c in record.comparisons if responses[c.chosen].key != responses[c.rejected].key)
    if len(comparisons) < len(record.comparisons):
        if not comparisons:
            raise Defect("identical_responses", "their tokens are equal" + " after the cut" * bool(cut))
        changes.append("identical_comparison")
    example = Example(
        id=record.id,
        prompt_ids=prompt_ids,
        responses=responses,
        comparisons=comparisons,
        labels=record.labels,
        ranks=record.ranks,
        scores=record.scores,
        weight=record.weight,
        source=record.source,
    )
    return example, changes


def fit_length(
    location: str, encoded: Encoded, max_length: int, truncation: Truncation, begin: int | None
) -> tuple[TokenIds, tuple[Response, ...], list[str]]:
    """Return prompt and responses within `max_length` tokens, and what was cut. Arguments: see `to_example`."""
    prompt_ids, responses = encoded.prompt_ids, encoded.responses
    longest = max(len(r.token_ids) for r in responses)
    length = len(prompt_ids) + longest
    if length <= max_length:
        return prompt_ids, responses, []
    seen = f"prompt + response = {len(prompt_ids)} + {longest} tokens > {max_length}"
    if truncation == "error":
        raise DataError(
            f"{location}: {seen}, and data.truncation=error. Raise data.max_length, or shorten long rows: "
            "data.truncation=left_prompt",
            code="too_long",
            key="data.max_length",
            row=location,
        )
    if truncation == "drop":
        raise Defect("too_long", seen)
    if truncation == "left_prompt":
        return (
            cut_left(prompt_ids, max_length - longest, begin),
            responses,
            ["prompt_cut_left"],
        )
    room = max_length - len(prompt_ids)
    if room < 1:
        raise Defect("prompt_too_long", seen)
    return prompt_ids, tuple(cut_right(r, room) for r in responses), ["response_cut_right"]


def cut_left(prompt_ids: TokenIds, room: int, begin: int | None) -> TokenIds:
    """Return the last `room` tokens of a prompt. If it starts with the beginning token, that stays first."""
    if room < 1:
        raise Defect("response_too_long", f"with a prompt of one token it is {1 - room} tokens too long")
    if prompt_ids[0] != begin:
        return token_ids(prompt_ids[-room:])
    return token_ids(np.concatenate([prompt_ids[:1], prompt_ids[len(prompt_ids) - room + 1 :]]))


def cut_right(response: Response, room: int) -> Response:
    """Return the first `room` tokens of a response. A cut response has no end token."""
    if len(response.token_ids) <= room:
        return response
    scored = None if response.scored is None else token_ids(response.scored[response.scored < room])
    if scored is not None and len(scored) == 0:
        raise Defect("response_too_long", "no scored token is left after the cut")
    return replace(response, token_ids=token_ids(response.token_ids[:room]), ended=False, scored=scored)
