"""Diagnostics of training from log-probabilities and samples. No model runs here."""

from tiltlm.diagnostics.attainment import (
    MIN_EFFECTIVE_SAMPLES,
    Attainment,
    AttainmentCurve,
    Frontier,
    measure_attainment,
    measure_frontier,
)
from tiltlm.diagnostics.displacement import Displacement, measure_displacement
from tiltlm.diagnostics.frontier import attainable, best_of_n, effective_samples, level_counts, masses_of, tilted
from tiltlm.diagnostics.kl import SequenceKL, sequence_kl
from tiltlm.diagnostics.length import LengthBias, LengthRule, expected_agreement, measure_length_bias
from tiltlm.diagnostics.pairs import PairLogps
from tiltlm.diagnostics.step_metrics import MetricSums, metric_sums
from tiltlm.estimates.intervals import (
    Interval,
    bootstrap,
    bootstrap_mean,
    mean_of_repetitions,
    paired_difference,
    unit_means,
    wilson,
)

__all__ = [
    "MIN_EFFECTIVE_SAMPLES",
    "Attainment",
    "AttainmentCurve",
    "Displacement",
    "Frontier",
    "Interval",
    "LengthBias",
    "LengthRule",
    "MetricSums",
    "PairLogps",
    "SequenceKL",
    "attainable",
    "best_of_n",
    "bootstrap",
    "bootstrap_mean",
    "effective_samples",
    "expected_agreement",
    "level_counts",
    "masses_of",
    "mean_of_repetitions",
    "measure_attainment",
    "measure_displacement",
    "measure_frontier",
    "measure_length_bias",
    "metric_sums",
    "paired_difference",
    "sequence_kl",
    "tilted",
    "unit_means",
    "wilson",
]
