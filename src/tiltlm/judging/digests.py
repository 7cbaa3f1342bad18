"""Digests: short names for everything that a judgement depends on."""

import hashlib
import json
from typing import Any


def canonical(value: Any) -> str:
    """Return a value as JSON in one form only: sorted keys, no spaces; what JSON does not know becomes its text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)


def digest_of(kind: str, **facts: Any) -> str:
    """Return the digest of a judge: 32 hexadecimal digits of the sha256 of its kind and facts."""
    return hashlib.sha256(canonical({"kind": kind, **facts}).encode("utf-8", "surrogatepass")).hexdigest()[:32]
