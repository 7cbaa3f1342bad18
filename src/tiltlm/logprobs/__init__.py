"""The forward: from trees of prompts and responses to one log-probability per scored token, exact and shared."""

from tiltlm.logprobs.expand import LayoutName
from tiltlm.logprobs.loading import Loaded, Policy, Scorer, load_policy, load_scorer, load_tokenizer
from tiltlm.logprobs.module import ForestModule
from tiltlm.logprobs.plain import plain_logps, separate_logps
from tiltlm.logprobs.planner import balance, plan, plan_ranks
from tiltlm.logprobs.policy import PolicyModule
from tiltlm.logprobs.saving import save_policy
from tiltlm.logprobs.scoring import ScoreModule
from tiltlm.logprobs.selfcheck import Choice, choose_layout
from tiltlm.logprobs.settings import LoraSettings, ModelSettings

__all__ = [
    "Choice",
    "ForestModule",
    "LayoutName",
    "Loaded",
    "LoraSettings",
    "ModelSettings",
    "Policy",
    "PolicyModule",
    "ScoreModule",
    "Scorer",
    "balance",
    "choose_layout",
    "load_policy",
    "load_scorer",
    "load_tokenizer",
    "plain_logps",
    "plan",
    "plan_ranks",
    "save_policy",
    "separate_logps",
]
