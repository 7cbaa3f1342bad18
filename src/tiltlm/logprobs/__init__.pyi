from .layout_name import LayoutName
from .module import ForestModule
from .plain import plain_logps, separate_logps
from .planner import balance, plan, plan_ranks
from .policy import PolicyModule
from .scoring import ScoreModule
from .selfcheck import Choice, choose_layout

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
