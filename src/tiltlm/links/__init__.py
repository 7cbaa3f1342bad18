"""Links ℓ(u), one per module: functions from a margin to a loss."""

from tiltlm.links.blended import Blended
from tiltlm.links.exponential import Exponential
from tiltlm.links.hinge import Hinge
from tiltlm.links.link import Link
from tiltlm.links.logistic import Logistic
from tiltlm.links.reverse_kl import ReverseKL
from tiltlm.links.sigmoid import Sigmoid
from tiltlm.links.smoothed import Denoised, Smoothed
from tiltlm.links.squared import Squared

__all__ = [
    "Blended",
    "Denoised",
    "Exponential",
    "Hinge",
    "Link",
    "Logistic",
    "ReverseKL",
    "Sigmoid",
    "Smoothed",
    "Squared",
]
