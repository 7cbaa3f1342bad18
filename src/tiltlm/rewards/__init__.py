"""Reward parameterisations r_θ(x, y), one per module."""

from tiltlm.rewards.f_divergence import Divergence, FDivergence
from tiltlm.rewards.learned import Learned
from tiltlm.rewards.log_odds import LogOdds
from tiltlm.rewards.log_ratio import LogRatio
from tiltlm.rewards.mean_log_ratio import MeanLogRatio
from tiltlm.rewards.mean_logp import MeanLogp
from tiltlm.rewards.mixed_mean import MixedMean
from tiltlm.rewards.power import Power
from tiltlm.rewards.reward import Reward
from tiltlm.rewards.seq_logp import SeqLogp

__all__ = [
    "Divergence",
    "FDivergence",
    "Learned",
    "LogOdds",
    "LogRatio",
    "MeanLogRatio",
    "MeanLogp",
    "MixedMean",
    "Power",
    "Reward",
    "SeqLogp",
]
