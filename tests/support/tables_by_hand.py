"""Tables of made-up rewards and log-probabilities, as `measure_examples` returns them."""

from collections.abc import Sequence

from tiltlm.core import Comparison
from tiltlm.evaluation import ExampleRow, ResponseRow


def response(reward: float, logps: float = -1.0, num_tokens: int = 1) -> ResponseRow:
    """Return one measured response."""
    return ResponseRow(logps, num_tokens, reward)


def pair(name: str, chosen: ResponseRow, rejected: ResponseRow, prompt: str = "", **more: float) -> ExampleRow:
    """Return a row with one comparison; without `prompt` its prompt is different from all others."""
    return ExampleRow(name, prompt or name, (chosen, rejected), (Comparison(0, 1, **more),))


def rewarded(*rewards: tuple[float, float]) -> list[ExampleRow]:
    """Return one pair per (chosen, rejected) rewards, each with its own prompt."""
    return [pair(f"row{i}", response(a), response(b)) for i, (a, b) in enumerate(rewards)]


def unpaired(rewards: Sequence[float], labels: Sequence[bool]) -> list[ExampleRow]:
    """Return one labelled response per reward, each with its own prompt."""
    pairs = enumerate(zip(rewards, labels, strict=True))
    return [ExampleRow(f"row{i}", f"row{i}", (response(r),), (), (y,)) for i, (r, y) in pairs]
