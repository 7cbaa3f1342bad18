"""The cheap part of a check: what loading the data shows anyway, in a sentence or two."""

from collections import Counter
from typing import TYPE_CHECKING

from tiltlm.core.notes import Note
from tiltlm.data.quality.rules import BIASED, CODE_OF_CAUSE, FEW

if TYPE_CHECKING:
    from tiltlm.data.findings import DataFacts


def brief_verdict(facts: "DataFacts") -> Note:
    """Return what is wrong with loaded data, by code, as one sentence; another one names the command that says more.

    Args:
        facts: Facts about all rows, as loading found them.
    """
    counts: Counter[str] = Counter()
    for cause, rows in facts.accounting.losses.items():
        if cause in CODE_OF_CAUSE:
            counts[CODE_OF_CAUSE[cause]] += rows.count
    counts["D04"] += facts.num_opposed
    counts["D13"] += facts.num_shared_prompts
    found = [f"{code} × {count:,}" for code, count in sorted(counts.items()) if count]
    if facts.num_compared >= FEW:
        longer = facts.num_longer / facts.num_compared
        if max(longer, 1 - longer) > BIASED:
            found.append(f"D10: the longer response is preferred in {longer:.0%}")
    kept = f"{facts.accounting.kept:,} of {facts.accounting.total:,} rows can be used"
    if not found:
        return Note(f"data check: {kept}, and nothing was found on the way", "data_verdict")
    return Note(f"data check: {kept}; {', '.join(found)}. `tiltlm check` names rows, causes and fixes", "data_verdict")
