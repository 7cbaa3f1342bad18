"""Score labelled pairs with a policy and a reference, and estimate how many of the labels are wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tiltlm.core import Example
from tiltlm.core.errors import DataError
from tiltlm.core.notes import Note
from tiltlm.data.accounting import SHOWN
from tiltlm.data.cache.fingerprints import prompt_numbers
from tiltlm.data.quality.rules import Finding, Rule
from tiltlm.diagnostics.label_noise import LabelNoise, estimate_label_noise, outliers
from tiltlm.recipes.progress import ProgressCallback, silent
from tiltlm.recipes.run_settings import RunSettings
from tiltlm.recipes.score import score_examples
from tiltlm.report.data.check_report import CheckReport, Number
from tiltlm.report.numbers import format_number, with_bounds

SUSPECT = 0.5
"""From this probability on, a label is suspected to be wrong."""

NOISE_RULES = (
    Rule(
        "suspected_labels",
        "D16",
        "note",
        "the label is probably wrong, given the margin of the model",
        "let a person look at these rows; objective=robust_dpo corrects for a known rate of wrong labels",
        unit="pairs",
    ),
    Rule(
        "margin_outliers",
        "D16",
        "note",
        "the margin of the model is far from those of the other rows",
        "look at them: such a row has a large gradient in objectives whose link is not bounded",
        unit="pairs",
    ),
)


def with_noise(report: CheckReport, settings: RunSettings, *, progress: ProgressCallback = silent) -> CheckReport:
    """Return a report with D16: suspected labels, outliers, and the rate of wrong labels.

    Args:
        report: What the other checks found.
        settings: Model, reference and data; the objective is dpo, whose margin is β log-ratios.
        progress: Called during the reference pass and the scoring.

    Raises:
        ConfigError: There are too few pairs, or policy and reference are the same.
        DataError: The data has no pairs.
    """
    data = replace(settings.data, eval=None, eval_split=None, on_bad="drop", max_bad=1.0)
    scored = score_examples(replace(settings, data=data), progress=progress)
    kept = [(e, row) for e, row in zip(scored.examples, scored.rows, strict=True) if is_labelled(e)]
    if not kept:
        raise DataError("no row has one comparison that prefers a response", code="wrong_data_shape", key="data.train")
    examples = [example for example, _ in kept]
    margins = np.array([margin_of(row) for _, row in kept])
    noise = estimate_label_noise(margins, prompt_numbers(examples))
    found = (*report.findings, *findings_of(noise, examples, margins))
    notes = report.notes if noise.is_identified else (*report.notes, NOT_IDENTIFIED)
    return replace(report, findings=found, numbers=(*report.numbers, *numbers_of(noise)), notes=notes)


NOT_IDENTIFIED = Note(
    "the margins of this model say little about the rate of wrong labels: its interval is wide. A policy that was "
    "trained on other preferences of the same kind says more",
    "noise_not_identified",
)


def is_labelled(example: Example) -> bool:
    """Return whether a row has two responses of which the label prefers one."""
    return len(example.comparisons) == 1 and len(example.responses) == 2 and not example.comparisons[0].is_tie


def margin_of(row: Mapping[str, Any]) -> float:
    """Return log π/π_ref of the chosen response minus that of the rejected one, in nats."""
    ratios = {r["role"]: r["logps"] - r["ref_logps"] for r in row["responses"]}
    return float(ratios["chosen"] - ratios["rejected"])


def findings_of(noise: LabelNoise, examples: Sequence[Example], margins: "np.ndarray[Any, Any]") -> list[Finding]:
    """Return suspected labels, the most suspected first, if the rate is identified; and outliers."""
    suspected, far = NOISE_RULES
    found = []
    order = np.argsort(-noise.p_flipped, kind="stable")
    count = int((noise.p_flipped >= SUSPECT).sum())
    if count and noise.is_identified:
        first = tuple(
            f"{examples[k].id}: margin {format_number(float(margins[k]))}, P(wrong) {noise.p_flipped[k]:.2f}"
            for k in order[: min(SHOWN, count)]
        )
        detail = f"estimated rate of wrong labels {with_bounds(noise.rate, percent=True)}"
        found.append(Finding(suspected, count, len(examples), first, detail))
    places = outliers(margins)
    if len(places):
        first = tuple(f"{examples[k].id}: margin {format_number(float(margins[k]))}" for k in places[:SHOWN])
        found.append(Finding(far, len(places), len(examples), first))
    return found


def numbers_of(noise: LabelNoise) -> list[Number]:
    """Return the rate of wrong labels and what it rests on."""
    return [
        Number(
            "label_noise", "rate of wrong labels", noise.rate, True, "labels flipped beyond what the margin explains"
        ),
        Number(
            "margin_agrees",
            "margin agrees with label",
            noise.agreement,
            True,
            "pairs whose margin has the label's sign",
        ),
        Number("margin_slope", "slope of the margin", noise.slope, False, "nats of preference per nat of margin"),
    ]
