"""What an engine said of each token, beside the samples that are trained on."""

import numpy as np

from tiltlm.core.example import Credit, Example, Response, token_ids
from tiltlm.online.examples.corrections import CorrectionSettings, corrected
from tiltlm.recipes.online.drawing.loop_engines import behaviours_of, facts_of
from tiltlm.sampling.answers import AnswerRow


def row(prompt: list[int], answers: list[list[int]], logps: list[list[float]]) -> AnswerRow:
    return AnswerRow(
        "p", "x", ("a",) * len(answers), (True,) * len(answers), token_ids(prompt), tuple(map(token_ids, answers)),
        behaviour_token_logps=tuple(np.float32(own) for own in logps),
    )  # fmt: skip


def example(prompt: list[int], answers: list[list[int]], old: list[list[float]]) -> Example:
    credits = tuple(Credit(1.0, old_logps=np.float32(own)) for own in old)
    return Example("p", token_ids(prompt), tuple(Response(token_ids(own)) for own in answers), credits=credits)


ROWS = [
    row([1], [[5, 2], [6], [5, 2]], [[-1, -2], [-3], [-1.25, -2]]),
    row([1, 3], [[5, 2]], [[-0.5, -0.25]]),
]


def test_each_sample_has_what_was_said_of_it_after_its_own_prompt():
    """The same tokens after another prompt have other numbers; of two equal samples the first one's are taken."""
    examples = [example([1, 3], [[5, 2]], [[0, 0]]), example([1], [[6], [5, 2], [5, 2]], [[0], [0, 0], [0, 0]])]
    found = behaviours_of(examples, ROWS)
    assert [[own.tolist() for own in each] for each in found] == [[[-0.5, -0.25]], [[-3], [-1, -2], [-1, -2]]]


def test_the_factors_of_the_loss_are_those_of_policy_and_engine():
    """log c = log π_old − log μ: 0.5 and −1 of two tokens, cut at log 1.5."""
    settings = CorrectionSettings("token_truncate", high=1.5)
    examples = [example([1], [[5, 2]], [[-0.5, -3]])]
    ((credit,),) = [one.credits for one in corrected(examples, behaviours_of(examples, ROWS), settings)]
    np.testing.assert_allclose(credit.correction, [1.5, np.exp(-1)])


def test_the_own_sampler_says_nothing_on_a_card():
    assert facts_of({}) == {}
    said = facts_of(
        {
            "engine": "generate_batch",
            "exact": False,
            "missing": [{"a": 1}, {"a": 2, "b": 1}],
            "start": {"mean": 0.01, "max": 0.2},
        }
    )
    assert said["missing"] == {"a": 3, "b": 1}
    assert (said["probe"], said["mismatch"], said["mismatch_max"]) == (None, 0.01, 0.2)
