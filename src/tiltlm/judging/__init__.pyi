from .adapters import Compared, Ranked, compared, ranked
from .cache import Budget, JudgementCache, cached
from .judge import Comparer, Item, Judge, PairItem, Prompt, Role, Score, Scorer, Verdict
from .judge_settings import JudgeSettings, build_judge
from .orders import Reconciled, both_orders
from .panel import Panel
from .roles import check_roles, check_trains

__all__ = [
    "Budget",
    "Compared",
    "Comparer",
    "Item",
    "Judge",
    "JudgeSettings",
    "JudgementCache",
    "PairItem",
    "Panel",
    "Prompt",
    "Ranked",
    "Reconciled",
    "Role",
    "Score",
    "Scorer",
    "Verdict",
    "both_orders",
    "build_judge",
    "cached",
    "check_roles",
    "check_trains",
    "compared",
    "ranked",
]
