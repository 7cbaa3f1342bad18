"""The presets of a loop, as a terminal and a notebook look at them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tiltlm.online.presets import PRESETS

if TYPE_CHECKING:
    import pandas as pd


class PresetList:
    """All presets."""

    def summary(self) -> str:
        """Return what the command line prints."""
        width = max(map(len, PRESETS))
        return "\n".join(
            f"{name:<{width}}  {preset.title}\n{'':<{width}}  {preset.source}" for name, preset in PRESETS.items()
        )

    __repr__ = summary

    def to_pandas(self) -> pd.DataFrame:
        """Return a table with one row a preset."""
        import pandas as pd

        rows = [{"preset": name, "title": one.title, "source": one.source} for name, one in PRESETS.items()]
        return pd.DataFrame(rows).set_index("preset")
