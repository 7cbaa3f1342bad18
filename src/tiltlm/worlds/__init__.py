"""Small worlds with a known truth, for tests, experiments and notebooks.

`TextWorld` has prompts, a gold reward and a tiny language model. `FiniteWorld` is one prompt with K responses, where
partition function, optimum and population losses are exact. `AutoregressiveWorld` is a language model as a table.
"""

from tiltlm.worlds.autoregressive import AutoregressiveWorld
from tiltlm.worlds.finite import (
    FiniteWorld,
    bradley_terry,
    kl,
    log_bound_of_best_of_n,
    product_sampler,
    tilt,
    total_variation,
    uniform_sampler,
)
from tiltlm.worlds.newton import Minimum, minimise
from tiltlm.worlds.population import (
    Fit,
    Population,
    comparisons,
    demonstrations,
    fit_policy,
    population_loss,
    rankings,
    scored,
    unpaired,
    view_of,
)
from tiltlm.worlds.text import LEVELS, PromptSet, TextWorld

__all__ = [
    "LEVELS",
    "AutoregressiveWorld",
    "FiniteWorld",
    "Fit",
    "Minimum",
    "Population",
    "PromptSet",
    "TextWorld",
    "bradley_terry",
    "comparisons",
    "demonstrations",
    "fit_policy",
    "kl",
    "log_bound_of_best_of_n",
    "minimise",
    "population_loss",
    "product_sampler",
    "rankings",
    "scored",
    "tilt",
    "total_variation",
    "uniform_sampler",
    "unpaired",
    "view_of",
]
