"""What a knob asks for: where the margin of a pair comes to rest under methods whose knobs are called alike.

    python scripts/compare_beta.py

prints the table of docs/comparing-beta.md. A pair of responses of equal length is preferred one way with probability p;
each method's own loss, as the package computes it, is minimised over the margin of log-ratios by bisection on its
gradient.
"""

import torch

from tiltlm.core import Comparison, Example, Response, ResponseLogps, build_trees, token_ids
from tiltlm.objectives import build, reduce_terms

LENGTH = 100
"""Tokens of each response."""
PREFERENCES = (0.6, 0.8, 0.95)
METHODS = (
    ("dpo", {"beta": 0.1}),
    ("dpo", {"beta": 0.05}),
    ("ln_dpo", {"beta": 10.0}),
    ("ln_dpo", {"beta": 0.1}),
    ("ipo", {"tau": 0.1}),
    ("ipo_mean", {"tau": 0.1}),
    ("ipo_mean", {"tau": 10.0}),
    ("cdpo", {"beta": 0.1, "label_smoothing": 0.1}),
    ("cpo", {"beta": 0.1, "nll_weight": 0.0}),
    ("simpo", {"beta": 2.0, "gamma_beta_ratio": 0.0}),
    ("simpo", {"beta": 10.0, "gamma_beta_ratio": 0.0}),
    ("simpo", {"beta": 10.0, "gamma_beta_ratio": 0.3}),
)
WIDEST = 5_000.0
"""Nats: no margin below is wider."""


def slope(name: str, knobs: dict[str, float], preference: float, margin: float) -> float:
    """dℓ/dh at a margin of h nats of the whole response between chosen and rejected."""
    responses = tuple(Response(token_ids([token] * LENGTH)) for token in (1, 2))
    example = Example("pair", token_ids([0]), responses, (Comparison(0, 1, preference=preference),))
    _, slots = build_trees([example])
    h = torch.tensor(margin, dtype=torch.float64, requires_grad=True)
    reference = torch.full((2 * LENGTH,), -1.0, dtype=torch.float64)
    shift = torch.stack([h / 2, -h / 2]) / LENGTH
    response = torch.arange(2).repeat_interleave(LENGTH)
    logps = ResponseLogps(
        reference + shift[response], response, torch.tensor([LENGTH, LENGTH]), ref_token_logps=reference
    )
    objective = build(name, **knobs)
    view = objective.view.of([example], slots)
    reduce_terms(objective(logps, view), view.counts()).backward()
    assert h.grad is not None, "every method here reads the margin"
    return h.grad.item()


def rest(name: str, knobs: dict[str, float], preference: float) -> float:
    """The margin, in nats of the whole response, at which the loss is least."""
    low, high = -WIDEST, WIDEST
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if slope(name, knobs, preference, middle) < 0 else (low, middle)
    return (low + high) / 2


def table() -> str:
    """The table in Markdown."""
    head = ["method", *(f"p = {p:g}" for p in PREFERENCES), f"per token at p = {PREFERENCES[1]:g}"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, knobs in METHODS:
        margins = [rest(name, knobs, p) for p in PREFERENCES]
        given = ", ".join(f"{key} {value:g}" for key, value in knobs.items())
        cells = [f"`{name}`, {given}", *(f"{m:.1f}" for m in margins), f"{margins[1] / LENGTH:.3f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
