"""Tables of made-up rewards and log-probabilities, as `measure` would return them."""

from collections.abc import Sequence

from tiltlm.core import Comparison
from tiltlm.evaluation import ExampleRow, ResponseRow


def response(reward: float, logps: float = -1.0, num_tokens: int = 1) -> ResponseRow:
    return ResponseRow(logps, None, num_tokens, reward)


def pair(name: str, chosen: ResponseRow, rejected: ResponseRow, prompt: str = "", **more: float) -> ExampleRow:
    """One comparison; its prompt is its own unless named."""
    return ExampleRow(name, prompt or name, (chosen, rejected), (Comparison(0, 1, **more),))


def rewarded(*rewards: tuple[float, float]) -> list[ExampleRow]:
    """Pairs of (chosen, rejected) rewards, a prompt each."""
    return [pair(f"row{i}", response(a), response(b)) for i, (a, b) in enumerate(rewards)]


def unpaired(rewards: Sequence[float], labels: Sequence[bool]) -> list[ExampleRow]:
    """Single responses with a label, a prompt each."""
    pairs = enumerate(zip(rewards, labels, strict=True))
    return [ExampleRow(f"row{i}", f"row{i}", (response(r),), (), (y,)) for i, (r, y) in pairs]
