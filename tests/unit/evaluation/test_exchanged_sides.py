"""A comparison and its mirror image say the same, so every number of a run is the same for both.

The mirror image of chosen ≻ rejected with probability p and offset o is rejected ≻ chosen with 1 − p and −o. Data of
three columns A, B, winner has its sides in any order, so half of the labels are below ½ there.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tiltlm.core import Comparison, Example, Pairs, Response, build_trees, pack_trees, token_ids
from tiltlm.data.accounting import Accounting
from tiltlm.diagnostics import metric_sums
from tiltlm.evaluation import compare_held_out, fit_length_rule, measure_examples
from tiltlm.objectives import build
from tiltlm.objectives.terms import reduce_terms
from tiltlm.report import RunReport, to_plain, verdict_of
from tiltlm.report.page import render

PREFERENCES = (0.0, 0.25, 0.5, 0.75, 1.0)


def made_up(seed: int) -> list[Example]:
    """Return pairs and lists of three, with labels of every kind."""
    rng = np.random.default_rng(seed)

    def ids(n: int):
        return token_ids(rng.integers(3, 29, n))

    examples = []
    for row in range(24):
        size = 3 if row % 6 == 0 else 2
        ends = [(0, 1)] if size == 2 else [(0, 1), (2, 1), (0, 2)]
        numbers = ((float(rng.choice(PREFERENCES)), float(rng.normal())) for _ in ends)
        comparisons = tuple(Comparison(*e, preference=p, offset=o) for e, (p, o) in zip(ends, numbers, strict=True))
        responses = tuple(Response(ids(rng.integers(2, 9))) for _ in range(size))
        examples.append(Example(f"row{row}", ids(3), responses, comparisons))
    return examples


def mirrored(example: Example, rng: np.random.Generator) -> Example:
    """Exchange both sides of each comparison, and the order of the responses, with probability ½ each."""
    size = len(example.responses)
    order = list(range(size)) if rng.random() < 0.5 else list(reversed(range(size)))
    comparisons = []
    for c in example.comparisons:
        c = replace(c, chosen=order.index(c.chosen), rejected=order.index(c.rejected))
        if rng.random() < 0.5:
            c = replace(
                c, chosen=c.rejected, rejected=c.chosen, preference=1 - c.preference, offset=-c.offset, weight=c.weight
            )
        comparisons.append(c)
    return replace(example, responses=tuple(example.responses[k] for k in order), comparisons=tuple(comparisons))


def numbers_of(examples: list[Example], before, after) -> dict:
    """Return the metrics of a step, and the report of a run, as plain values."""
    objective = build("dpo", beta=0.5)
    trees, slots = build_trees(examples)
    with torch.no_grad():
        responses = after(pack_trees(trees))
        reference = before(pack_trees(trees)).seq_logps.double()
    responses = replace(responses, ref_seq_logps=reference)
    view = Pairs.of(examples, slots)
    simpo = build("simpo")  # a reward without a reference: its numbers before training are not known by definition
    rows = [measure_examples(model, examples, simpo, None, 4096) for model in (before, after)]
    rule = fit_length_rule(examples)
    accounting = Accounting(total=len(examples))
    for example in examples:
        accounting.keep(example, held_out=True)
    held_out = compare_held_out(*rows, rule)
    report = RunReport("a run", held_out=held_out, data=accounting.as_dict())
    return {
        "loss": float(reduce_terms(objective(responses, view), view.counts())),
        "metrics": metric_sums(objective, responses, view).means(),
        "report": to_plain(report),
        "verdict": to_plain(verdict_of(report)),
        "page": render(report),
    }


def assert_same(one, other, place: str = "") -> None:
    """Require equal structure and text, and numbers equal to rounding."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for key in one:
            assert_same(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), place
        for i, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{place}[{i}]")
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-5, abs=1e-6), place
    else:
        assert one == other, place


@pytest.mark.parametrize("seed", range(3))
def test_no_number_depends_on_the_order_of_the_sides(seed, tiny_policy):
    before, after = tiny_policy(0), tiny_policy(1)
    examples = made_up(seed)
    rng = np.random.default_rng(seed + 100)
    expected = numbers_of(examples, before, after)
    assert_same(numbers_of([mirrored(example, rng) for example in examples], before, after), expected)
    assert expected["report"]["held_out"]["contrast"]["num_label_ties"] > 0


def test_the_preferred_response_is_the_chosen_one():
    responses = tuple(Response(token_ids([3] * n)) for n in (1, 2))
    example = Example("a", token_ids([1]), responses, (Comparison(0, 1, weight=2.0, preference=0.2, offset=0.5),))
    assert example.comparisons == (Comparison(1, 0, weight=2.0, preference=0.8, offset=-0.5),)
    assert example.roles == ("rejected", "chosen")
    tie = replace(example, comparisons=(Comparison(0, 1, preference=0.5),))
    assert tie.roles == ("response", "response")
