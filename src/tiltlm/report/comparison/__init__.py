"""Runs side by side on one page."""

from tiltlm.report.comparison.page import write_comparison
from tiltlm.report.comparison.points import ComparedRun

__all__ = [
    "ComparedRun",
    "write_comparison",
]
