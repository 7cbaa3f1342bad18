"""Reports: a run, or several runs side by side, as one HTML page, and the same numbers as JSON."""

from tiltlm.report.comparison import ComparedRun, write_comparison
from tiltlm.report.page import read_run, render, write_report
from tiltlm.report.run_report import RunReport, to_plain
from tiltlm.report.series import Series, series_of
from tiltlm.report.verdict import Verdict, verdict_of

__all__ = [
    "ComparedRun",
    "RunReport",
    "Series",
    "Verdict",
    "read_run",
    "render",
    "series_of",
    "to_plain",
    "verdict_of",
    "write_comparison",
    "write_report",
]
