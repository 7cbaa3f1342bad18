"""Simulated annotators whose reliability is known."""

import numpy as np

from tiltlm.data.labels import Votes, as_votes

NAMES = ("a", "b", "tie")


def simulated(rng, confusion, num_items, per_item, shares=(0.5, 0.5)) -> tuple[np.ndarray, Votes]:
    """Return the true class of each item, and votes drawn from the annotators' confusion matrices.

    Args:
        rng: Source of chance.
        confusion: [annotators, K, K] P(vote | true class).
        num_items: Number of items.
        per_item: Annotators that vote on each item, drawn without replacement.
        shares: Share of each class.
    """
    truth = rng.choice(len(shares), num_items, p=shares)
    table = []
    for i, k in enumerate(truth):
        for j in rng.choice(len(confusion), per_item, replace=False):
            vote = rng.choice(len(shares), p=confusion[j][k])
            table.append((f"item {i:05}", f"annotator {j:02}", NAMES[vote]))
    return truth, as_votes(table)


def symmetric(accuracy: float, num_classes: int = 2) -> np.ndarray:
    """Return the confusion matrix of an annotator who errs equally often in all ways."""
    wrong = (1 - accuracy) / (num_classes - 1)
    return np.full((num_classes, num_classes), wrong) + (accuracy - wrong) * np.eye(num_classes)
