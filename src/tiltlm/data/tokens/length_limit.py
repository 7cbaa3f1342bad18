"""Record → Example: tokens under a length limit, the same cut for all responses of a prompt.

A limit that cuts one side of a pair and not the other would teach the difference between cut and whole, so the longest
response decides for its whole row.
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
    """Tokens a prompt with one response may have: the setting, else the model's window up to `LONGEST`.

    Raises:
        DataError: the setting exceeds the window.
    """
    if max_length is None:
        return LONGEST if window is None else min(window, LONGEST)
    if window is not None and max_length > window:
        raise DataError(
            f"data.max_length={max_length}: the model's window is {window} tokens; set at most that",
            code="beyond_window",
            key="data.max_length",
        )
    return max_length


def without_oldest_turns(record: Record, encoder: Encoder, max_length: int) -> Encoded | None:
    """The record without as few of its oldest turns as make it fit; None where the last one alone is too long.

    What is left is a prompt that could stand at inference: rendered anew, system turns and beginning token included.

    Raises:
        Defect: the chat template refuses the shorter conversation.
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
    """The record as tokens that fit, and what was changed (keys of `tiltlm.data.accounting.CHANGES`).

    Args:
        begin: the beginning token, which a cut prompt keeps.

    Raises:
        Defect: the row cannot be used, or does not fit.
        DataError: the row does not fit, under `truncation="error"`.
    """
    prompt_ids, responses, cut = fit_length(record.location, encoded, max_length, truncation, begin)
    changes = [*record.changes, *encoded.changes, *cut]
    lost = [*cut, *(change for change in encoded.changes if change == "turns_cut")]
    if lost and record.ref_logps:
        raise Defect("reference_of_other_tokens", ", ".join(lost))
    comparisons = tuple(c for c in record.comparisons if responses[c.chosen].key != responses[c.rejected].key)
    if len(comparisons) < len(record.comparisons):
        if not comparisons:
            raise Defect("identical_responses", "as tokens" + ", after the cut" * bool(cut))
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
    """Prompt and responses within `max_length` tokens, by the policy, and what was cut."""
    prompt_ids, responses = encoded.prompt_ids, encoded.responses
    longest = max(len(r.token_ids) for r in responses)
    length = len(prompt_ids) + longest
    if length <= max_length:
        return prompt_ids, responses, []
    seen = f"{len(prompt_ids)} + {longest} tokens > {max_length}"
    if truncation == "error":
        raise DataError(
            f"{location}: {seen} (data.truncation=error). Raise data.max_length, or cut: data.truncation=left_prompt",
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
    return prompt_ids, tuple(cut_right(r, room) for r in responses), ["answer_cut_right"]


def cut_left(prompt_ids: TokenIds, room: int, begin: int | None) -> TokenIds:
    """The last `room` tokens of a prompt; its beginning token, where it has one, stays the first of them."""
    if room < 1:
        raise Defect("answer_too_long", f"{1 - room} tokens too many without any prompt")
    if prompt_ids[0] != begin:
        return token_ids(prompt_ids[-room:])
    return token_ids(np.concatenate([prompt_ids[:1], prompt_ids[len(prompt_ids) - room + 1 :]]))


def cut_right(response: Response, room: int) -> Response:
    """The first `room` tokens of a response; a cut one has no end token."""
    if len(response.token_ids) <= room:
        return response
    scored = None if response.scored is None else token_ids(response.scored[response.scored < room])
    if scored is not None and len(scored) == 0:
        raise Defect("answer_too_long", "the cut leaves no scored token")
    return replace(response, token_ids=token_ids(response.token_ids[:room]), ended=False, scored=scored)
