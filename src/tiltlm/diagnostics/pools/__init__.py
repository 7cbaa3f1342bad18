"""Numbers from a pool of N samples a prompt: best of n for every n ≤ N, pass@k, the KL that selection costs."""

from tiltlm.diagnostics.pools.best_of_n import (
    BestOfN,
    OverOptimisation,
    best_of_n_values,
    best_of_n_win_rates,
    find_peak,
    measure_best_of_n,
    pass_at_k,
    poisson_values,
    soft_best_of_n_values,
)
from tiltlm.diagnostics.pools.selection_kl import collision_rate, kl_bound, selection_kl
from tiltlm.diagnostics.pools.tilt import attained_shares, measure_tilt, reward_at, tilt_pool

__all__ = [
    "BestOfN",
    "OverOptimisation",
    "attained_shares",
    "best_of_n_values",
    "best_of_n_win_rates",
    "collision_rate",
    "find_peak",
    "kl_bound",
    "measure_best_of_n",
    "measure_tilt",
    "pass_at_k",
    "poisson_values",
    "reward_at",
    "selection_kl",
    "soft_best_of_n_values",
    "tilt_pool",
]
