"""Random decisions that a restart cannot change: digests with the project's secret.

People cannot predict them, and the same pair and person always get the same one.
"""

import hashlib
import hmac
from typing import Literal

Side = Literal["a", "b"]


def chance(secret: bytes, *parts: str | int) -> float:
    """Return a number in [0, 1) that these parts decide."""
    text = "\0".join(f"{type(part).__name__}:{part}" for part in parts)
    found = hmac.new(secret, text.encode("utf-8", "surrogatepass"), hashlib.sha256).digest()
    return int.from_bytes(found[:6], "big") / 2**48


def left_side(secret: bytes, pair_id: int, person_id: int, *, is_repeat: bool = False) -> Side:
    """Return which response a person sees on the left. A repeat has the sides exchanged."""
    is_a = chance(secret, "side", pair_id, person_id) < 0.5
    return "a" if is_a != is_repeat else "b"


def other(side: str) -> Side:
    """Return the other of a and b."""
    return "b" if side == "a" else "a"
