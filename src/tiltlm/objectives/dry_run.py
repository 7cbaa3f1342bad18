"""A toy batch that every objective can read, to find out what an objective reads, divides by and logs."""

from typing import get_args

import torch

from tiltlm.core import (
    Comparison,
    Credit,
    Example,
    Response,
    ResponseLogps,
    Responses,
    ResponseScores,
    View,
    build_trees,
    token_ids,
)
from tiltlm.core.logps import Extra
from tiltlm.objectives.terms import Objective, reads_scores


def toy_batch(objective: Objective) -> tuple[Responses, View]:
    """Return two made-up responses of one token, with all values an objective could read, and its view of them."""
    responses = tuple(Response(token_ids([token])) for token in (1, 2))
    example = Example(
        "made up",
        token_ids([0]),
        responses,
        (Comparison(0, 1),),
        labels=(True, False),
        ranks=(1, 2),
        scores=(1.0, 0.0),
        credits=(Credit(0.5), Credit(-0.5)),
    )
    _, slots = build_trees([example])
    view = objective.view.of([example], slots)
    if reads_scores(objective):
        return ResponseScores(torch.tensor([1.0, 0.0]), torch.tensor([1, 1])), view
    values = torch.tensor([-1.0, -2.0])
    numbers = ResponseLogps(
        values,
        response_index=torch.tensor([0, 1]),
        num_tokens=torch.tensor([1, 1]),
        ref_token_logps=values,
        extras=dict.fromkeys(get_args(Extra), -values),
    )
    return numbers, view
