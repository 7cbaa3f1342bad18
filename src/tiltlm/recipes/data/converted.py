"""Converted data, as a notebook and a terminal look at it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tiltlm.core.needs import Shape
from tiltlm.data.rows.losses import LOST, Losses


@dataclass(frozen=True, repr=False)
class Converted:
    """What a conversion read, wrote and lost."""

    source: str
    path: Path
    """The file or folder that was written."""
    source_format: str
    """Name of the format that was recognised; "": the columns have our names."""
    target_format: str
    shape: Shape
    """Shape of the data that were read."""
    written_shape: Shape
    num_read: int
    num_written: int
    forms: Mapping[str, int]
    """Form of the rows that were read (text, transcripts, messages, token ids) → how many."""
    losses: Losses
    """Cause → the rows from which something was lost."""
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        return (
            f"Converted: {self.num_written} rows ({self.target_format}) in {self.path}, from {self.num_read} rows "
            f"({self.source_format or 'our columns'}), causes of loss: {', '.join(self.losses) or 'none'}"
        )

    def summary(self) -> str:
        """Return what the command line prints."""
        forms = ", ".join(f"{count:,} of {form}" if len(self.forms) > 1 else form for form, count in self.forms.items())
        read = f"{self.num_read:,} rows of {self.shape}, {forms}"
        lines = [
            f"read     {self.source}: {self.source_format or 'columns of our names'}; {read}",
            f"written  {self.path}: {self.target_format}; {self.num_written:,} rows of {self.written_shape}",
        ]
        lost = loss_lines(self.losses)
        lines += [f"{'lost' if k == 0 else '':<8} {line}" for k, line in enumerate(lost)]
        head = f"{self.num_written:,} of {self.num_read:,} rows were written" if self.losses else "nothing is lost"
        head = f"{self.source_format or self.shape} → {self.target_format}: {head}"
        return "\n".join([head, "", *lines, *(f"note     {note}" for note in self.notes)])


def loss_lines(losses: Losses) -> list[str]:
    """Return a line for each cause of loss, the most frequent first."""
    ordered = sorted(losses.items(), key=lambda item: (-item[1].count, item[0]))
    return [f"{cause} × {counts.count:,}: {LOST[cause]} ({counts.examples[0]})" for cause, counts in ordered]
