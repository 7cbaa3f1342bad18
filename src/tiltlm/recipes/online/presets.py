"""The presets of a loop, as a terminal and a notebook look at them."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING

from tiltlm.online.presets import PRESETS

if TYPE_CHECKING:
    import pandas as pd

WIDTH = 96
"""Characters of a line."""


class PresetList:
    """All presets."""

    def summary(self) -> str:
        """Return what the command line prints."""
        blocks = [
            [name, *(f"  {line}" for text in (one.title, one.source, one.differs) for line in wrap(text, WIDTH))]
            for name, one in PRESETS.items()
        ]
        return "\n\n".join("\n".join(block) for block in blocks)

    __repr__ = summary

    def to_pandas(self) -> pd.DataFrame:
        """Return a table with one row a preset."""
        import pandas as pd

        rows = [
            {"preset": name, "title": one.title, "source": one.source, "differs": one.differs}
            for name, one in PRESETS.items()
        ]
        return pd.DataFrame(rows).set_index("preset")
