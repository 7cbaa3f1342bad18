"""Measure whether training helped: held-out data, samples of the policy, and a gold reward where there is one."""

from tiltlm.evaluation.change import Change
from tiltlm.evaluation.contrast import Contrast, fit_length_rule
from tiltlm.evaluation.example_rows import ExampleRow, ResponseRow, measure_examples
from tiltlm.evaluation.gold import Gold, Line, compare_gold
from tiltlm.evaluation.held_out import HeldOut, compare_held_out
from tiltlm.evaluation.samples import (
    SampleComparison,
    SampleNumbers,
    SampleSet,
    SampleText,
    compare_samples,
    draw_samples,
    sample_texts,
)

__all__ = [
    "Change",
    "Contrast",
    "ExampleRow",
    "Gold",
    "HeldOut",
    "Line",
    "ResponseRow",
    "SampleComparison",
    "SampleNumbers",
    "SampleSet",
    "SampleText",
    "compare_gold",
    "compare_held_out",
    "compare_samples",
    "draw_samples",
    "fit_length_rule",
    "measure_examples",
    "sample_texts",
]
