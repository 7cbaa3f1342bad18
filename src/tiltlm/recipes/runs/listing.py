"""`tiltlm runs`: find the runs below folders, and list them with their states and results."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiltlm.core.errors import ConfigError
from tiltlm.estimates.intervals import Interval
from tiltlm.recipes.runs.files import Damaged, plain_line
from tiltlm.recipes.runs.found import STATES, FoundRun, State, is_run, look_at, studies_in
from tiltlm.report.numbers import format_number, with_bounds

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "tiltlm.runs/1"
INSIDE = frozenset({"model", "adapter", "checkpoints", "rounds", "sync", "tensorboard", "wandb"})
"""Folders of a run directory in which no other run is."""
SORTS = {
    "changed": lambda run: run.changed,
    "created": lambda run: run.created,
    "path": lambda run: str(run.path),
    "state": lambda run: STATES.index(run.state),
    "objective": lambda run: run.objective,
    "steps": lambda run: run.step or 0,
    "accuracy": lambda run: _number(run, "accuracy"),
    "kl": lambda run: _number(run, "kl"),
    "reward": lambda run: max(_number(run, "gold_reward"), _number(run, "reward")),
}
"""What runs can be sorted by."""
ASCENDING = frozenset({"path", "state", "objective", "kl"})
"""These begin with the smallest; the others with the newest or largest."""
PERCENT = frozenset({"accuracy", "win_rate"})


@dataclass(frozen=True)
class Skipped:
    """A folder that was not looked into, or that is no run although it looks like one."""

    path: Path
    reason: str


@dataclass(frozen=True, repr=False)
class RunList:
    """The runs below some folders."""

    runs: tuple[FoundRun, ...]
    """Those that were asked for, sorted."""
    num_found: int
    """Runs and studies that were found, also those that were not asked for."""
    skipped: tuple[Skipped, ...]
    prints_json: bool = False
    """Print JSON in place of the table."""

    def __len__(self) -> int:
        return len(self.runs)

    def __iter__(self) -> Iterator[FoundRun]:
        return iter(self.runs)

    def __getitem__(self, index: int) -> FoundRun:
        return self.runs[index]

    def __repr__(self) -> str:
        return f"RunList: {self._count()}\n{_table(self.runs)}"

    def _repr_html_(self) -> str:
        """Return the table for a notebook."""
        return str(self.to_pandas().to_html(index=False, na_rep="–"))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, as `--json` prints it."""
        return {
            "schema": SCHEMA,
            "num_found": self.num_found,
            "runs": [run.to_dict() for run in self.runs],
            "skipped": [{"path": str(one.path), "reason": one.reason} for one in self.skipped],
        }

    def to_pandas(self) -> pd.DataFrame:
        """Return one row a run. Each number has two more columns, the ends of its interval: `kl_low`, `kl_high`."""
        import pandas as pd

        names = ("path", "kind", "state", "objective", "model", "data", "step", "progress", "skipped", "verdict")
        rows = []
        for run in self.runs:
            row = {name: getattr(run, name) for name in (*names, "created", "changed", "note")}
            for name, number in run.numbers.items():
                row |= {name: number.estimate, f"{name}_low": number.low, f"{name}_high": number.high}
            rows.append({**row, "path": str(run.path)})
        return pd.DataFrame(rows)

    def summary(self) -> str:
        """Return what the command line prints, for the width of the terminal if it goes to one."""
        return self.text(shutil.get_terminal_size().columns if sys.stdout.isatty() else None)

    def text(self, width: int | None = None) -> str:
        """Return how many there are, the runs, and what to do about those that have not finished.

        Args:
            width: Characters of a line. Runs are lines of a table if it fits, else short paragraphs. None: a table.
        """
        table = _table(self.runs)
        if width is not None and max(map(len, table.splitlines()), default=0) > width:
            table = _paragraphs(self.runs, width)
        parts = [self._count(), table, "\n".join(_advice(run, width) for run in self.runs if run.note)]
        if self.skipped:
            parts.append("\n".join(["skipped:", *(f"  {_place(one.path)}: {one.reason}" for one in self.skipped)]))
        return "\n\n".join(part for part in parts if part)

    def _count(self) -> str:
        """Return how many runs there are, and in which states."""
        if not self.num_found:
            return "no runs"
        if not self.runs:
            return f"no run matches; {self.num_found} without these filters"
        counts = Counter(run.state for run in self.runs)
        states = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
        shown = f"{len(self.runs)}" if len(self.runs) == self.num_found else f"{len(self.runs)} of {self.num_found}"
        return f"{shown} {'run' if self.num_found == 1 else 'runs'}: {states}"


def list_runs(
    folders: Sequence[Path],
    *,
    states: Sequence[str] = (),
    kinds: Sequence[str] = (),
    objectives: Sequence[str] = (),
    sort: str = "changed",
    reverse: bool = False,
    prints_json: bool = False,
) -> RunList:
    """Return the runs in these folders and below them. Nothing is written, and no lock is taken.

    Args:
        folders: Run directories, or folders with runs somewhere below.
        states: States to keep; empty keeps all.
        kinds: Kinds to keep; empty keeps all.
        objectives: Keep runs whose objective has one of these names, alone or in a sum; empty keeps all.
        sort: One of `SORTS`.
        reverse: Turn the order round.
        prints_json: As in `RunList`.

    Raises:
        ConfigError: a folder does not exist, or a state, a kind or an order is unknown.
    """
    _check("state", states, STATES)
    _check("sort", [sort], SORTS)
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{folder}: there is no such folder", code="no_such_path", key="DIR")
    found: dict[Path, FoundRun] = {}
    skipped: list[Skipped] = []
    for folder in folders:
        _search(folder, found, skipped)
    _check("kind", kinds, sorted({"train", "loop", *(run.kind for run in found.values())}))
    kept = [
        run
        for run in found.values()
        if (not states or run.state in states)
        and (not kinds or run.kind in kinds)
        and (not objectives or _names_of(run.objective) & set(objectives))
    ]
    kept.sort(key=lambda run: str(run.path))
    kept.sort(key=SORTS[sort], reverse=(sort not in ASCENDING) != reverse)
    return RunList(tuple(kept), len(found), tuple(skipped), prints_json)


def _check(key: str, given: Sequence[str], known: Any) -> None:
    """Refuse a word that is not known."""
    for word in given:
        if word not in known:
            raise ConfigError(
                f"--{key} {word}: unknown; choose from {', '.join(known)}", code="unknown_choice", key=f"--{key}"
            )


def _search(top: Path, found: dict[Path, FoundRun], skipped: list[Skipped]) -> None:
    """Add the runs in and below a folder to `found`, by their real paths, and what was skipped to `skipped`."""
    studies: list[tuple[Path, str, str]] = []

    def refused(error: OSError) -> None:
        skipped.append(Skipped(Path(error.filename), error.strerror or str(error)))

    for text, folders, files in os.walk(top, onerror=refused):
        folder = Path(text)
        try:
            here = "run.json" in files and is_run(folder)
        except Damaged as error:
            skipped.append(Skipped(folder, str(error)))
            here = False
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not (here and name in INSIDE))
        if here:
            found.setdefault(folder.resolve(), look_at(folder))
        else:
            skipped += [
                Skipped(folder / name, "a link, which is not followed")
                for name in folders
                if (folder / name).is_symlink() and (folder / name / "run.json").exists()
            ]
            studies += [(folder, kind, headline) for kind, headline in studies_in(folder, files)]
    for folder, kind, headline in studies:
        found.setdefault(folder.resolve() / kind, _study(folder, kind, headline, list(found.values())))


def _study(folder: Path, kind: str, headline: str, runs: Sequence[FoundRun]) -> FoundRun:
    """Return the row of a study: what its runs have in common, and the state that needs most attention."""
    own = [run for run in runs if run.runs == () and folder in run.path.parents]
    states = {run.state for run in own}
    order: tuple[State, ...] = ("running", "damaged", "failed", "stopped", "finished")
    state: State = next((one for one in order if one in states), "finished")
    first = own[0] if own else FoundRun(folder, kind, state)
    ended = sum(run.state == "finished" for run in own)
    return replace(
        first,
        path=folder,
        kind=kind,
        state=state,
        note="" if ended == len(own) else f"{ended} of its {len(own)} runs are finished",
        command="",
        code="",
        objective=_common([run.objective for run in own]),
        model=_common([run.model for run in own]),
        data=_common([run.data for run in own]),
        step=None,
        progress=None,
        skipped=sum(run.skipped for run in own),
        resumable_at=None,
        created=min((run.created for run in own), default=""),
        changed=max((run.changed for run in own), default=""),
        verdict="",
        sentence=headline,
        numbers={},
        latest={},
        runs=tuple(run.path for run in own),
    )


def _common(texts: Sequence[str]) -> str:
    """Return the text that all runs share, or those that they have."""
    different = list(dict.fromkeys(texts))
    return ", ".join(different[:3]) + (", …" if len(different) > 3 else "")


def _names_of(objective: str) -> set[str]:
    """Return the names in a short form of an objective, and the short form itself."""
    return {objective, *objective.replace("+", " ").replace(",", " ").split()}


def _number(run: FoundRun, name: str) -> float:
    """Return a number of a run to sort by; the smallest where it was not measured."""
    found = run.numbers.get(name)
    value = found.estimate if found is not None else run.latest.get(name, float("-inf"))
    return value if value == value else float("-inf")


COLUMNS = ("state", "run", "kind", "objective", "model", "data", "steps", "skipped", "result", "KL", "verdict", "when")
LABELLED = frozenset({"steps", "skipped", "KL", "verdict"})
"""Columns whose values mean nothing without their names."""


def _cells(run: FoundRun) -> dict[str, str]:
    """Return the texts of a run by the names of the columns; "" where there is nothing to show."""
    texts = (
        run.state,
        _place(run.path),
        "" if run.kind == "train" else run.kind,
        run.objective,
        run.model,
        run.data,
        _steps(run),
        str(run.skipped or ""),
        _result(run),
        _shown(run.numbers.get("kl"), 2),
        run.verdict,
        run.changed[:16].replace("T", " "),
    )
    return dict(zip(COLUMNS, map(plain_line, texts), strict=True))


def _table(runs: Sequence[FoundRun]) -> str:
    """Return the runs as a table of text. Columns in which nothing stands are left out."""
    if not runs:
        return ""
    rows = [_cells(run) for run in runs]
    columns = [name for name in COLUMNS if name in ("state", "run") or any(row[name] for row in rows)]
    lines = [columns, *([row[name] for name in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _paragraphs(runs: Sequence[FoundRun], width: int) -> str:
    """Return the runs as a few short lines each, for a terminal that is too narrow for the table."""
    found = []
    for run in runs:
        cells = _cells(run)
        facts = [f"{name} {text}" if name in LABELLED else text for name, text in cells.items() if text][2:]
        found.append(f"{cells['state']}  {cells['run']}\n{_indented(', '.join(facts), width)}")
    return "\n\n".join(found)


def _advice(run: FoundRun, width: int | None) -> str:
    """Return what happened to a run, and on a line of its own, to be copied, the command that continues it."""
    note = run.note if run.note.startswith(run.state) else f"{run.state}: {run.note}"
    lines = [_place(run.path), _indented(plain_line(note), width)]
    return "\n".join([*lines, *([f"  {plain_line(run.command)}"] if run.command else [])])


def _indented(text: str, width: int | None) -> str:
    """Return a text with an indent, in lines of at most this many characters; None: in one line."""
    indent = "  "
    if width is None:
        return indent + text
    return textwrap.fill(
        text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _place(path: Path) -> str:
    """Return the path of a run as it was given, without escape codes."""
    return plain_line(str(path))


def _steps(run: FoundRun) -> str:
    """Return the steps of a run, and the share of it that is done; of a study, its runs."""
    if run.runs:
        return f"{len(run.runs)} runs"
    share = "" if run.progress is None or run.state == "finished" else f" ({100 * run.progress:.0f} %)"
    return f"{'' if run.step is None else run.step}{share}".strip()


def _result(run: FoundRun) -> str:
    """Return the number that a run is judged by, with its interval, or the last one that was measured on the way."""
    names = {
        "gold_reward": "gold reward ",
        "held_out": "held-out reward ",
        "reward": "reward ",
        "accuracy": "accuracy ",
        "nll": "nll ",
    }
    for name, label in names.items():
        if (number := run.numbers.get(name)) is not None:
            return label + _shown(number, percent=name in PERCENT)
    for name, label in names.items():
        if name in run.latest:
            value = run.latest[name]
            shown = f"{format_number(100 * value, 0)} %" if name in PERCENT else format_number(value)
            return f"{label}{shown} so far"
    return ""


def _shown(number: Interval | None, decimals: int | None = None, *, percent: bool = False) -> str:
    return "" if number is None else with_bounds(number, decimals=decimals, percent=percent)
