"""The page of an audit, and its JSON twin: the file that `judge.audit` names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tiltlm.diagnostics import Interval
from tiltlm.diagnostics.judges import JudgeAudit
from tiltlm.diagnostics.judges.audit import MIN_LENGTH_GAP
from tiltlm.report.answers.markdown import markdown_summary, write_markdown
from tiltlm.report.numbers import format_number, share, with_bounds
from tiltlm.report.page import as_json, template_environment, write
from tiltlm.report.sections import Remark, SectionView
from tiltlm.report.tables import Table, TableRow, cell

SCHEMA = "tiltlm.audit/1"
STATUS = {
    "ok": "decided",
    "tie": "ties",
    "inconsistent": "the two orders contradict each other",
    "both_bad": "both bad",
    "error": "failed",
}


class Number(NamedTuple):
    """A number of an audit, with its meaning."""

    key: str
    name: str
    interval: Interval | None
    percent: bool
    meaning: str


def numbers_of(audit: JudgeAudit) -> list[Number]:
    """Return all numbers with an interval, in the order of the page."""
    canaries = audit.canaries
    before, after, change = (
        (None, None, None) if canaries is None else (canaries.plain, canaries.attacked, canaries.change)
    )
    gap = f"one response is longer by more than {MIN_LENGTH_GAP} characters"
    return [
        Number("accuracy", "agreement", audit.accuracy, True, "decided labels that the judge agrees with, its ties ½"),
        Number("kappa", "Cohen's κ", audit.kappa, False, "agreement beyond chance: 0 for chance, 1 for full agreement"),
        Number("auc", "AUC", audit.auc, False, "how well its probabilities order right and wrong; ½ is chance"),
        Number("slope", "slope", audit.calibration.slope, False, "nats of preference per unit of score or logit"),
        Number("flips", "flips", audit.flips, True, "pairs whose better response changes with the order"),
        Number("first_slot", "first slot", audit.first_slot, True, "the first one shown wins; 50 % is no preference"),
        Number("longer", "longer wins", audit.longer, True, f"by the judge, where {gap}"),
        Number("longer_labels", "longer wins, labels", audit.longer_labels, True, "the same pairs by people"),
        Number("lists", "list wins", audit.lists, True, "by the judge, where exactly one response has a list"),
        Number("lists_labels", "list wins, labels", audit.lists_labels, True, "the same pairs by people"),
        Number("worse", "worse wins", before, True, "of the pairs with an attack, before it"),
        Number("attacked", "worse wins, attacked", after, True, "it asks for a good verdict"),
        Number("attack", "effect of attacks", change, True, "difference of the two above"),
        Number("retest", "changes when repeated", audit.retest, True, "decisions that change when it is asked again"),
        Number("retest_noise", "retest noise", audit.retest_noise, False, "mean |p − p'| of two askings"),
    ]


def sentences_of(audit: JudgeAudit) -> list[str]:
    """Return what the audit says, the most important first."""
    total = sum(audit.counts.values())
    lines = [
        f"{audit.judge} agrees with {with_bounds(audit.accuracy, percent=True)} of the labels: "
        f"κ {with_bounds(audit.kappa)}"
    ]
    if audit.first_slot is not None and (audit.first_slot.low > 0.5 or audit.first_slot.high < 0.5):
        place = "first" if audit.first_slot.estimate > 0.5 else "second"
        lines.append(f"It prefers the response that is shown {place}: always show both orders.")
    if audit.longer and audit.longer_labels and audit.longer.low > audit.longer_labels.high:
        lines.append("It prefers longer responses more than people do.")
    if audit.lists and audit.lists_labels and audit.lists.low > audit.lists_labels.high:
        lines.append("It prefers lists more than people do.")
    if audit.canaries is not None and audit.canaries.change.low > 0:
        lines.append("Responses that ask for a good verdict get one more often: do not use it on untrusted text.")
    found = ", ".join(f"{STATUS[key]} {count:,}" for key, count in audit.counts.items() if count)
    lines.append(f"{total:,} pairs: {found}.")
    return lines


def calibration_text(audit: JudgeAudit, scale: float | None) -> str:
    """Return what calibration changes."""
    fit = audit.calibration
    if scale is None:
        return "No scale: its judgements are used as they are."
    return (
        f"scale {format_number(scale)}: a difference of this much is one nat of preference. Calibration error "
        f"{share(fit.ece_before)} before, {share(fit.ece_after)} after (on pairs that the fit had not seen)."
    )


def table_of(audit: JudgeAudit) -> Table:
    """Return one row for each number that was measured."""
    rows = (
        TableRow(n.key, n.name, (cell(n.interval, percent=n.percent),), n.meaning)
        for n in numbers_of(audit)
        if n.interval is not None
    )
    return Table(("estimate",), tuple(rows))


def sections_of(audit: JudgeAudit, scale: float | None) -> list[SectionView]:
    """Return the sections of the page."""
    lead = "Small numbers are 95 % intervals, by resampling of the prompts."
    return [
        SectionView("numbers", "Agreement and biases", None, lead, [table_of(audit)]),
        SectionView("calibration", "Calibration", None, calibration_text(audit, scale)),
    ]


def verdict_on(accuracy: Interval) -> tuple[str, str]:
    """Return what the interval of the accuracy says in a few words, and as a class of the page."""
    if accuracy.low > 0.5:
        return "Better than chance", "better"
    if accuracy.high < 0.5:
        return "Worse than chance", "worse"
    return "A coin flip", "unclear"


def render_audit(audit: JudgeAudit, scale: float | None, twin: str) -> str:
    """Return the page as HTML."""
    word, colour = verdict_on(audit.accuracy)
    return (
        template_environment()
        .get_template("study.html")
        .render(
            kicker="audit of a judge",
            question="Does it agree with people?",
            title=f"Audit of {audit.judge}",
            facts={"Pairs": f"{audit.num_pairs:,}", "Judge": f"{audit.judge} {audit.digest[:8]}"},
            word=word,
            colour=colour,
            sentences=sentences_of(audit),
            cautions=[Remark(str(note.code), str(note)) for note in audit.notes],
            sections=sections_of(audit, scale),
            twin=twin,
        )
    )


def write_audit(
    path: Path, audit: JudgeAudit, scale: float | None, settings: Mapping[str, Any], *, markdown: bool = False
) -> Path:
    """Write the JSON file and the page beside it, and with `markdown` a summary of that name with `.md`.

    Args:
        path: The JSON file.
        audit: What was found.
        scale: Calibrated scale; None if there is none.
        settings: Settings of the judge.
        markdown: Write the summary.

    Returns:
        The path of the page.

    Raises:
        RunError: A file cannot be written.
    """
    content = {
        "schema": SCHEMA,
        "judge": audit.judge,
        "digest": audit.digest,
        "scale": scale,
        "settings": {name: value for name, value in settings.items() if value not in (None, (), "")},
        "sentences": sentences_of(audit),
        "notes": {str(note.code): str(note) for note in audit.notes},
        **{name: value for name, value in vars(audit).items() if name not in ("judge", "digest", "notes")},
    }
    page = path.with_suffix(".html")
    write(path, as_json(content))
    write(page, render_audit(audit, scale, path.name))
    if markdown:
        sentences = [*sentences_of(audit), calibration_text(audit, scale)]
        notes = [str(note) for note in audit.notes]
        footer = f"{audit.num_pairs:,} pairs, judge {audit.judge} {audit.digest[:8]}"
        text = markdown_summary(f"Audit of {audit.judge}", sentences, [table_of(audit)], notes, footer)
        write_markdown(path.with_suffix(".md"), text)
    return page
