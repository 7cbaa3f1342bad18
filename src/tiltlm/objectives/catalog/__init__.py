"""The methods by name. `registry` builds them; the other modules have one constructor per method.

The order of the imports is the order of the catalogue.
"""

# ruff: noqa: I001

from tiltlm.objectives.catalog.registry import CATALOG, Knob, build, knobs, register
from tiltlm.objectives.catalog.names import Resolved, resolve_name
from tiltlm.objectives.catalog.log_ratio import dpo, dpo_nll, f_dpo, ipo, ipo_mean, ld_dpo, length_dpo, ln_dpo
from tiltlm.objectives.catalog.noisy import cdpo, discopop, robust_dpo
from tiltlm.objectives.catalog.reference_free import alphapo, cpo, orpo, rainbowpo, simpo, slic
from tiltlm.objectives.catalog.anchored import apo_down, apo_zero, bco_pair, cal_dpo, dpop, nca, sppo
from tiltlm.objectives.catalog.whole_vocabulary import tdpo1, tdpo2, wpo
from tiltlm.objectives.catalog.whole_step import aot, aot_unpaired
from tiltlm.objectives.catalog.scored import dno, odpo, rebel, rso
from tiltlm.objectives.catalog.lists import a_star_po, exo, info_nca, pl_dpo
from tiltlm.objectives.catalog.single import bco, kto, sft
from tiltlm.objectives.catalog.reward_model import reward_model
from tiltlm.objectives.catalog.policy_gradient import (
    reinforce, rloo, grpo, dr_grpo, dapo, gspo, cispo, dppo, reinforce_pp, ppo, opd,
)  # fmt: skip

__all__ = [
    "CATALOG", "Knob", "Resolved", "a_star_po", "alphapo", "aot", "aot_unpaired", "apo_down", "apo_zero", "bco",
    "bco_pair", "build", "cal_dpo", "cdpo", "cispo", "cpo", "dapo", "discopop", "dno", "dpo", "dpo_nll", "dpop",
    "dppo", "dr_grpo", "exo", "f_dpo", "grpo", "gspo", "info_nca", "ipo", "ipo_mean", "knobs", "kto", "ld_dpo",
    "length_dpo", "ln_dpo", "nca", "odpo", "opd", "orpo", "pl_dpo", "ppo", "rainbowpo", "rebel", "register",
    "reinforce", "reinforce_pp", "resolve_name", "reward_model", "rloo", "robust_dpo", "rso", "sft", "simpo", "slic",
    "sppo", "tdpo1", "tdpo2", "wpo",
]  # fmt: skip
