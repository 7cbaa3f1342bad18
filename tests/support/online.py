"""Groups of a few samples whose scores a test writes down."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from tiltlm.core.example import Example, Response, token_ids
from tiltlm.online.examples.rules import ExampleSettings, form_examples
from tiltlm.online.groups import Group, Sample, Who, preference_of_scores, sample_id
from tiltlm.worlds.finite import FiniteWorld


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


def drawn_groups(
    world: FiniteWorld, logps: Tensor, settings: ExampleSettings, n: int, rivals: tuple[Who, Tensor, int] | None = None
) -> tuple[list[Example], list[list[int]]]:
    """Return the examples of every possible draw of n responses from a policy, weighted by its probability.

    Scores are the world's rewards and preferences the world's own. The examples come from the rule itself.

    Args:
        world: The world.
        logps: [K] log-probabilities of the policy that draws.
        settings: The example rule.
        n: Samples of a group.
        rivals: Origin, log-probabilities and number of the samples that somebody else draws; None: there are none.

    Returns:
        The examples, and the indices among the K responses of each example's responses.
    """
    scores, preference, mass = (values.detach().numpy() for values in (world.reward, world.preference, logps.exp()))
    tokens = [[k + 1] * int(length) for k, length in enumerate(world.lengths)]
    place = {token_ids(ids).tobytes(): k for k, ids in enumerate(tokens)}
    examples, slots = [], []
    others: Who
    others, of_others, num_others = rivals or ("reference", logps, 0)
    of_rival = of_others.detach().exp().numpy()
    for draw in product(range(len(scores)), repeat=n + num_others):
        chosen = list(draw)
        probability = float(np.prod(mass[chosen[:n]]) * np.prod(of_rival[chosen[n:]]))
        group = group_of(
            scores[chosen],
            preference=preference[np.ix_(chosen, chosen)],
            tokens=[tokens[k] for k in chosen],
            who=["policy"] * n + [others] * num_others,
            prompt=str(draw),
        )
        for example in form_examples([group], settings).examples:
            examples.append(replace(example, weight=probability))
            slots.append([place[response.token_ids.tobytes()] for response in example.responses])
    return examples, slots
