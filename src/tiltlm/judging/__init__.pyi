from .judge import Comparer, Item, Judge, PairItem, Prompt, Role, Score, Scorer, Verdict

__all__ = [
    "Comparer",
    "Item",
    "Judge",
    "PairItem",
    "Prompt",
    "Role",
    "Score",
    "Scorer",
    "Verdict",
]
