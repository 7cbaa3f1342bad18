"""Data shape → loss. `catalog` names the methods; `pairwise`, `unpaired`, `demonstration` are the shapes they share."""

from tiltlm.objectives.catalog import CATALOG, Knob, build, dpo, ipo, knobs, kto, orpo, register, sft, simpo
from tiltlm.objectives.demonstration import Demonstration
from tiltlm.objectives.pairwise import Pairwise
from tiltlm.objectives.regularisers import ChosenNLL, Regulariser
from tiltlm.objectives.terms import Divisor, Objective, Term, example_losses, reduce_terms
from tiltlm.objectives.unpaired import Unpaired

__all__ = [
    "CATALOG",
    "ChosenNLL",
    "Demonstration",
    "Divisor",
    "Knob",
    "Objective",
    "Pairwise",
    "Regulariser",
    "Term",
    "Unpaired",
    "build",
    "dpo",
    "example_losses",
    "ipo",
    "knobs",
    "kto",
    "orpo",
    "reduce_terms",
    "register",
    "sft",
    "simpo",
]
