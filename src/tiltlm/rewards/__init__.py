"""Reward parameterisations r_θ(x, y), one a file."""

from tiltlm.rewards.log_odds import LogOdds
from tiltlm.rewards.log_ratio import LogRatio
from tiltlm.rewards.mean_logp import MeanLogp
from tiltlm.rewards.reward import Reward
from tiltlm.rewards.seq_logp import SeqLogp

__all__ = ["LogOdds", "LogRatio", "MeanLogp", "Reward", "SeqLogp"]
