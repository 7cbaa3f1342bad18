"""tiltlm: tilt a language model toward what people prefer, and measure whether it helped.

Nothing heavy is imported until it is asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tiltlm.config.calls import objectives, preview, quickstart, score, sweep, train

__all__ = ["objectives", "preview", "quickstart", "score", "sweep", "train"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from tiltlm.config import calls

        return getattr(calls, name)
    raise AttributeError(f"module 'tiltlm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
