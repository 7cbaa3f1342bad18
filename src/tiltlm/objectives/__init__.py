"""Objectives: functions from responses and a view of the data to a loss.

`catalog` has the methods by name. The other modules are the parts and shapes that they share.
"""

from tiltlm.core.needs import Spec
from tiltlm.objectives.catalog import *  # noqa: F403, every method by its name
from tiltlm.objectives.catalog import CATALOG, Knob, Resolved, build, knobs, register, resolve_name
from tiltlm.objectives.composing import compose, describe_spec, form_of, notes_on, parts_of, spell_out
from tiltlm.objectives.parts.adjustments import (
    Adjustment,
    ChosenDrop,
    Dispersion,
    ExcessDiscount,
    LengthBonus,
    LogScoreMargin,
    PositionKL,
    ScoreTarget,
    Target,
)
from tiltlm.objectives.parts.critics import Critic
from tiltlm.objectives.parts.regularisers import Anchor, ChosenNLL, Regulariser
from tiltlm.objectives.parts.statistics import BalancedMean, Memory, MismatchedKL, Statistic
from tiltlm.objectives.parts.surrogates import (
    Clipped,
    ProbabilityMask,
    ReferenceKL,
    Reinforce,
    SequenceClipped,
    Surrogate,
    TruncatedWeight,
)
from tiltlm.objectives.parts.weightings import OnPolicy, Weighting
from tiltlm.objectives.shapes.demonstration import Demonstration
from tiltlm.objectives.shapes.distributional import DominantMargins, DominantRewards
from tiltlm.objectives.shapes.listwise import (
    CrossEntropy,
    Listwise,
    NoiseContrast,
    PlackettLuce,
    Regression,
    ReverseCrossEntropy,
)
from tiltlm.objectives.shapes.pairwise import Pairwise
from tiltlm.objectives.shapes.rollouts import PolicyGradient
from tiltlm.objectives.shapes.unpaired import Unpaired
from tiltlm.objectives.shapes.weighted_sum import WeightedSum
from tiltlm.objectives.terms import Divisor, Objective, Term, example_losses, reduce_terms

__all__ = [
    "CATALOG", "Adjustment", "Anchor", "BalancedMean", "ChosenDrop", "ChosenNLL", "Clipped", "Critic", "CrossEntropy",
    "Demonstration", "Dispersion", "Divisor", "DominantMargins", "DominantRewards", "ExcessDiscount", "Knob",
    "LengthBonus", "Listwise", "LogScoreMargin", "Memory", "MismatchedKL", "NoiseContrast", "Objective", "OnPolicy",
    "Pairwise", "PlackettLuce", "PolicyGradient", "PositionKL", "ProbabilityMask", "ReferenceKL", "Regression",
    "Regulariser", "Reinforce", "Resolved", "ReverseCrossEntropy", "ScoreTarget", "SequenceClipped", "Spec",
    "Statistic", "Surrogate", "Target", "Term", "TruncatedWeight", "Unpaired", "WeightedSum", "Weighting", "build",
    "compose", "describe_spec", "example_losses", "form_of", "knobs", "notes_on", "parts_of", "reduce_terms",
    "register", "resolve_name", "spell_out",
    *CATALOG,
]  # fmt: skip
