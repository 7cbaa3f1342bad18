"""Functions whose textbook form overflows or cancels, written so that value and gradient stay finite."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

LAST_EXPONENT = 30.0
"""Beyond this, `exp` is replaced by its tangent: e³⁰ ≈ 1e13, whose square still fits a float32 gradient norm."""


def bounded_exp(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return eˣ up to x = 30 and its tangent e³⁰·(1 + x − 30) beyond.

    It is increasing and convex; value and gradient are finite.
    """
    inside = x.clamp(max=LAST_EXPONENT)
    return torch.exp(inside) * (1 + (x - inside))


def bounded_expm1(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return eˣ − 1, accurate at 0, with the tangent of `bounded_exp` beyond x = 30."""
    inside = x.clamp(max=LAST_EXPONENT)
    # e^inside, not the constant e³⁰: with the constant, the two gradients cancel only up to the rounding of 1e13.
    return torch.expm1(inside) + torch.exp(inside) * (x - inside)


def log1mexp(a: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return log(1 − eᵃ) for a < 0, accurate on both sides of −ln 2.

    a is clamped to ≤ −1e-6, because the odds diverge at 0. The branch that is not taken gets a safe value, so that its
    gradient is finite before it is masked.
    """
    a = a.clamp(max=-1e-6)
    near = a > -math.log(2)
    small = torch.where(near, a, a.new_tensor(-0.5))
    large = torch.where(near, a.new_tensor(-1.0), a)
    return torch.where(near, torch.log(-torch.expm1(small)), torch.log1p(-torch.exp(large)))
