"""What an objective asks of data, in words that objectives say and data readers understand."""

from typing import Literal

Shape = Literal["pairs", "unpaired", "lists", "demonstrations"]
"""What a row is: a comparison or several, single labels, a ranked or scored list, responses to imitate."""
Need = Literal["scores", "strict_scores", "ranks"]
"""What an objective cannot do without: `scores` of all responses, `strict_scores` that are higher for the chosen one
of every comparison, or `ranks`."""
Use = Literal["weight", "offset", "preference"]
"""Optional columns that change its loss; `votes` are a `preference`."""
