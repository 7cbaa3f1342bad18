"""The description of an objective, and what it requires of data: names that settings and data readers share with it."""

from collections.abc import Mapping
from typing import Any, Literal

Spec = Mapping[str, Any]
"""The description of an objective by plain values."""

Shape = Literal["pairs", "unpaired", "lists", "demonstrations", "rollouts"]
"""What a row holds: one or more comparisons, single labels, a ranked or scored list, responses to imitate, or samples
of the policy with their advantages, which only a loop makes."""
Need = Literal["scores", "strict_scores", "ranks"]
"""Required columns: `scores` of all responses, `strict_scores` that are higher for the chosen response of every
comparison, or `ranks`."""
Use = Literal["weight", "offset", "preference"]
"""Optional columns that change an objective's loss; `votes` are read as a `preference`."""
