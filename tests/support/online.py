"""Groups of a few samples whose scores a test writes down."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from tiltlm.core.example import Response, token_ids
from tiltlm.online.groups import Group, Sample, Who, preference_of_scores, sample_id


def group_of(
    scores: ArrayLike,
    *,
    preference: ArrayLike | None = None,
    tokens: Sequence[Sequence[int]] | None = None,
    who: Sequence[Who] | None = None,
    places: Sequence[int] | None = None,
    prompt: str = "p",
) -> Group:
    """Return a group with these scores.

    Args:
        scores: [K] NaN where there is none.
        preference: [K, K]; None: that of the scores at scale 1.
        tokens: Token ids of each sample; None: sample k has k + 1 tokens that no other one has.
        who: Origin of each sample; None: the policy.
        places: Place of each sample when it was drawn, which decides id and tokens; None: its place here.
        prompt: Name of the prompt.
    """
    values = np.asarray(scores, dtype=np.float64)
    drawn = range(len(values)) if places is None else [int(place) for place in places]
    ids = [[10 + place] * (place + 1) for place in drawn] if tokens is None else tokens
    origins: Sequence[Who] = ["policy"] * len(values) if who is None else who
    samples = tuple(
        Sample(sample_id(prompt, 0, origin, place), origin, Response(token_ids(own)), f"text {place}")
        for place, origin, own in zip(drawn, origins, ids, strict=True)
    )
    known = preference_of_scores(values, 1.0) if preference is None else np.asarray(preference, dtype=np.float64)
    return Group(prompt, token_ids([1, *prompt.encode()]), samples, values, known)
