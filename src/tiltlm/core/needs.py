"""What an objective requires of data; objectives and data readers share these names."""

from typing import Literal

Shape = Literal["pairs", "unpaired", "lists", "demonstrations"]
"""What a row holds: one or more comparisons, single labels, a ranked or scored list, or responses to imitate."""
Need = Literal["scores", "strict_scores", "ranks"]
"""Required columns: `scores` of all responses, `strict_scores` that are higher for the chosen response of every
comparison, or `ranks`."""
Use = Literal["weight", "offset", "preference"]
"""Optional columns that change an objective's loss; `votes` are read as a `preference`."""
