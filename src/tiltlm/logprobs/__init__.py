"""The forward: from trees of prompts and responses to one exact log-probability per scored token."""

from tiltlm.logprobs.inputs import LayoutName
from tiltlm.logprobs.module import ForestModule
from tiltlm.logprobs.plain import plain_logps, separate_logps
from tiltlm.logprobs.planner import balance, plan, plan_ranks
from tiltlm.logprobs.policy import PolicyModule
from tiltlm.logprobs.scoring import ScoreModule
from tiltlm.logprobs.selfcheck import Choice, choose_layout

__all__ = [
    "Choice",
    "ForestModule",
    "LayoutName",
    "PolicyModule",
    "ScoreModule",
    "balance",
    "choose_layout",
    "plain_logps",
    "plan",
    "plan_ranks",
    "separate_logps",
]
