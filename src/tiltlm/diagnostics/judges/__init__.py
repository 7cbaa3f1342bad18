"""Numbers about a judge: agreement with labels, biases, calibration."""

from tiltlm.diagnostics.judges.agreement import auc, decision, kappa
from tiltlm.diagnostics.judges.audit import (
    AuditedPairs,
    Canaries,
    JudgeAudit,
    has_list,
    measure_audit,
    measure_canaries,
)
from tiltlm.diagnostics.judges.calibration import Calibration, calibrate, calibration_error
from tiltlm.estimates.intervals import rate

__all__ = [
    "AuditedPairs",
    "Calibration",
    "Canaries",
    "JudgeAudit",
    "auc",
    "calibrate",
    "calibration_error",
    "decision",
    "has_list",
    "kappa",
    "measure_audit",
    "measure_canaries",
    "rate",
]
