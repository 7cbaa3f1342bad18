"""Whether training helped: held-out data, the policy's own samples, and a gold reward where the world has one."""

from tiltlm.evaluation.change import Change
from tiltlm.evaluation.contrast import Contrast, fit_length_rule
from tiltlm.evaluation.gold import Gold, Line, compare_gold
from tiltlm.evaluation.held_out import HeldOut, compare_held_out
from tiltlm.evaluation.measure import ExampleRow, ResponseRow, measure
from tiltlm.evaluation.samples import (
    Draws,
    SampleComparison,
    SampleNumbers,
    SampleText,
    compare_samples,
    draw,
    sample_texts,
)

__all__ = [
    "Change",
    "Contrast",
    "Draws",
    "ExampleRow",
    "Gold",
    "HeldOut",
    "Line",
    "ResponseRow",
    "SampleComparison",
    "SampleNumbers",
    "SampleText",
    "compare_gold",
    "compare_held_out",
    "compare_samples",
    "draw",
    "fit_length_rule",
    "measure",
    "sample_texts",
]
