from .comparison import ComparedRun, write_comparison
from .page import read_run, render, write_report
from .run_report import RunReport, to_plain
from .series import Series, series_of
from .verdict import Verdict, verdict_of

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
