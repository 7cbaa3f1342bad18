"""Pairs whose right answer is known: some to calibrate people with feedback, the others silently among their work."""

import hashlib
from dataclasses import replace
from pathlib import Path

from tiltlm.core.errors import ConfigError, DataError
from tiltlm.data.data_settings import DataSettings
from tiltlm.labeling.store.pairs import NewPair, content_key
from tiltlm.recipes.answers.judged_rows import read_judged
from tiltlm.recipes.labeling.pairs.system_text import split_system


def read_gold(path: Path, calibration: int, seed: int) -> list[NewPair]:
    """Return the pairs of a file as gold, and some of them as calibration.

    Args:
        path: Data with pairs: the chosen response is right; with a `preference` of 0.5 the right answer is a tie. A
            column `explanation` is shown after the vote in calibration.
        calibration: How many are for calibration.
        seed: Decides which.

    Raises:
        ConfigError: There are fewer pairs than `calibration`.
        DataError: The file cannot be read, or has no pairs.
    """
    data = read_judged(DataSettings(str(path), on_bad="error"))
    if data.shape != "pairs":
        raise DataError(
            f"{path}: gold needs pairs (prompt, chosen, rejected), so that the right answer is known",
            code="wrong_data_shape",
            key="--gold",
        )
    found = {}
    for row in data.rows:
        prompt, system = split_system(row.prompt)
        right, wrong = row.responses
        digest = content_key(prompt, right, wrong, system)
        is_first = int(digest[-8:], 16) % 2 == 0  # the right answer is as often a as b
        a, b = (right, wrong) if is_first else (wrong, right)
        is_tie = row.values.get("preference") == 0.5
        found[digest] = NewPair(
            prompt,
            a,
            b,
            key=f"gold/{digest[:24]}",
            system=system,
            source=str(row.values.get("source") or ""),
            kind="gold",
            answer="tie" if is_tie else "a" if is_first else "b",
            explanation=str(row.values.get("explanation") or ""),
        )
    if calibration > len(found):
        raise ConfigError(
            f"--calibration is {calibration}, and {path} has {len(found)} pairs; give fewer, or more gold",
            code="out_of_range",
            key="--calibration",
        )
    order = sorted(found, key=lambda digest: hashlib.sha256(f"{seed}/{digest}".encode()).digest())
    lessons = set(order[:calibration])
    return [replace(new, kind="calibration") if digest in lessons else new for digest, new in found.items()]
