"""One run as its folder shows it: what it is, whether it runs, how it ended, and its most important numbers.

Reading needs neither torch nor a lock, and changes nothing. A file that cannot be read is a fact about the run.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from typing import Any, Literal

from tiltlm.estimates.intervals import Interval
from tiltlm.recipes.runs.files import (
    Damaged,
    checkpoints_of,
    count_lines,
    last_record,
    read_config,
    read_mapping,
)
from tiltlm.runs.directory import RunDirectory
from tiltlm.runs.ending import Ending, read_ending
from tiltlm.runs.heartbeat import is_alive, read_writer

State = Literal["running", "finished", "stopped", "failed", "damaged"]
STATES: tuple[State, ...] = ("running", "finished", "stopped", "failed", "damaged")
FORMAT = 1
"""Format of run.json that this version reads."""
OURS = ("config.yaml", "metrics.jsonl", "checkpoints", "log.txt")
"""Names of which a run directory has some. They tell a damaged run.json from a file of another program."""


@dataclass(frozen=True)
class FoundRun:
    """A run, or a study that has several runs, as its folder shows it."""

    path: Path
    kind: str
    """`train`, `loop`, or a study: `sweep`, `frontier`, `methods`."""
    state: State
    note: str = ""
    """What happened and what to do; "" where nothing is to be said."""
    command: str = ""
    """The command that continues a stopped run; "" for others. A failed one needs the cause mended first."""
    code: str = ""
    """The stable code of the error of a failed run."""
    objective: str = ""
    model: str = ""
    data: str = ""
    step: int | None = None
    """Optimiser steps that are recorded."""
    progress: float | None = None
    """Share of the planned epochs, steps or rounds that is done."""
    skipped: int = 0
    """Steps that were skipped."""
    resumable_at: int | None = None
    """Step of the newest checkpoint that looks whole, of a run that can be continued."""
    created: str = ""
    """ISO 8601; "" if it is not known."""
    changed: str = ""
    """When the run last recorded something or ended, in ISO 8601."""
    verdict: str = ""
    """The word of the report: whether training helped."""
    sentence: str = ""
    """The verdict with its numbers."""
    numbers: Mapping[str, Interval] = field(default_factory=dict)
    """Measured results by name, with intervals."""
    latest: Mapping[str, float] = field(default_factory=dict)
    """Metrics of the last evaluation, of a run without a report."""
    runs: tuple[Path, ...] = ()
    """The runs of a study that were found below it."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        plain = {
            **vars(self),
            "path": str(self.path),
            "numbers": {name: vars(number) for name, number in self.numbers.items()},
            "latest": dict(self.latest),
            "runs": [str(path) for path in self.runs],
        }
        return dict(plain_values(plain))


def is_run(folder: Path) -> bool:
    """Return whether a folder is a run directory, as its marker says.

    Raises:
        Damaged: the marker is another program's, or of a later version.
    """
    try:
        marker = read_mapping(folder / RunDirectory.MARKER)
    except Damaged:
        if any((folder / name).exists() for name in OURS):
            return True  # a run whose marker is damaged; `look_at` says so
        raise
    if marker is None:
        return False
    if marker.get("format") == FORMAT:
        return True
    if isinstance(marker.get("format"), int) and "created" in marker:
        raise Damaged(f"run.json has format {marker['format']}, and this version of tiltlm reads {FORMAT}")
    raise Damaged("run.json is not one of tiltlm")


def look_at(folder: Path) -> FoundRun:
    """Return what the folder of a run shows. `is_run` is true of it."""
    damage: list[str] = []

    def tried(read: Any, *args: Any) -> Any:
        try:
            return read(*args)
        except Damaged as error:
            damage.append(str(error))
            return None

    marker = tried(read_mapping, folder / RunDirectory.MARKER) or {}
    config = tried(read_config, folder) or {}
    last = tried(last_record, folder / "metrics.jsonl")
    is_loop = "loop" in config or (folder / "rounds").exists()
    report = tried(read_mapping, folder / ("loop.json" if is_loop else "report.json"))
    whole, bad = checkpoints_of(folder)
    state, note, ending = _state_of(folder, report is not None)
    if bad and not whole and state not in ("finished", "running"):
        damage.append(f"no checkpoint is whole ({bad[0]})")
    continues = state in ("stopped", "failed") and bool(config) and not _is_quickstart(config)
    resumable = (whole[-1] if whole else 0) if continues and not damage else None
    if damage and state != "running":
        state, note = "damaged", "; ".join(damage)
    elif continues:
        note = ". ".join(filter(None, (note, _way_on(resumable or 0, ending))))
    rounds = [] if not is_loop else _cards(report)
    return FoundRun(
        path=folder,
        kind="loop" if is_loop else "train",
        state=state,
        note=note,
        command=_command(folder, is_loop) if state == "stopped" and continues else "",
        code=ending.code if ending is not None else "",
        objective=_objective(config.get("objective")),
        model=_short(_inner(config, "model", "path")),
        data=_short(_inner(config, "data", "train")),
        step=None if last is None else last.get("step"),
        progress=1.0 if state == "finished" else _progress(folder, config, last, is_loop),
        skipped=count_lines(folder / "bad_steps.jsonl"),
        resumable_at=resumable,
        created=str(marker.get("created", "")),
        changed=_changed(folder, ending),
        verdict=str(_inner(report or {}, "verdict", "word") or ""),
        sentence=str(_inner(report or {}, "verdict", "sentence") or " ".join((report or {}).get("sentences", []))),
        numbers=_of_loop(rounds) if is_loop else _of_report(report or {}),
        latest={} if report else _latest(last),
    )


def _state_of(folder: Path, has_report: bool) -> tuple[State, str, Ending | None]:
    """Return the state of a run that is not damaged, what to say about it, and how it says that it ended."""
    writer = read_writer(folder)
    if writer is not None:
        if is_alive(folder, writer):
            return "running", str(writer), None
        return "stopped", f"{writer}: it ended without recording why, as a killed process does", None
    ending = read_ending(folder)
    if ending is not None:
        return ending.state, ending.message, ending
    if has_report:  # of a version that wrote no ending
        return "finished", "", None
    return "stopped", "it is not recorded how it ended", None


def _way_on(step: int, ending: Ending | None) -> str:
    """Return how to continue a run; "" if its error says all."""
    if ending is None or ending.state != "failed":
        return f"It continues from step {step}"
    if "--resume" in ending.message:  # the error says what to do, and perhaps that resuming would not help
        return f"Its newest checkpoint is of step {step}" if step else ""
    return f"After mending the cause, continue from step {step} with --resume, or start again with --overwrite"


def _command(folder: Path, is_loop: bool) -> str:
    """Return the command that continues a run."""
    return f"tiltlm {'loop' if is_loop else 'train'} {quote(str(folder / 'config.yaml'))} --resume"


def _is_quickstart(config: Mapping[str, Any]) -> bool:
    """Return whether a run is a quickstart, which cannot be continued: it wrote its data into its own folder."""
    train, output = _inner(config, "data", "train"), config.get("output")
    return isinstance(train, str) and isinstance(output, str) and Path(train).parent == Path(output)


def _inner(value: Any, *keys: str) -> Any:
    """Return a value inside nested mappings; None where a key is missing."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _objective(spec: Any) -> str:
    """Return a short name of an objective's description."""
    if not isinstance(spec, Mapping):
        return "" if spec is None else str(spec)[:40]
    if isinstance(spec.get("sum"), list):
        return " + ".join(_objective(term) for term in spec["sum"])[:60]
    parts = [spec.get(key) for key in ("name", "reward", "link", "loss", "surrogate") if spec.get(key) is not None]
    names = [part.get("name", "") if isinstance(part, Mapping) else str(part) for part in parts]
    return "+".join(name for name in map(str, names) if name)[:60]


def _short(value: Any) -> str:
    """Return the last parts of one path or several."""
    if isinstance(value, Mapping):
        value = value.get("path")
    if isinstance(value, list):
        return ", ".join(_short(one) for one in value[:3]) + (f" and {len(value) - 3} more" if len(value) > 3 else "")
    return "" if value is None else Path(str(value)).name


def _progress(folder: Path, config: Mapping[str, Any], last: Mapping[str, Any] | None, is_loop: bool) -> float | None:
    """Return the share of a run that is done; None if it is not known."""
    with suppress(TypeError, ValueError, ZeroDivisionError):
        if is_loop:
            done = sum(1 for _ in folder.glob("rounds/*/card.json"))
            return done / float(_inner(config, "loop", "rounds"))
        if last is None:
            return 0.0
        if most := _inner(config, "training", "max_steps"):
            return min(1.0, float(last["step"]) / float(most))
        return min(1.0, float(last.get("epoch", 0)) / float(_inner(config, "training", "num_epochs")))
    return None


def _changed(folder: Path, ending: Ending | None) -> str:
    """Return when a run last wrote a record or its end."""
    if ending is not None:
        return ending.at
    times = []
    for name in ("metrics.jsonl", "report.json", "loop.json", "log.txt", RunDirectory.MARKER):
        with suppress(OSError):
            times.append((folder / name).stat().st_mtime)
    return datetime.fromtimestamp(max(times), UTC).isoformat(timespec="seconds") if times else ""


def _latest(last: Mapping[str, Any] | None) -> dict[str, float]:
    """Return what the last record says, if it is an evaluation."""
    names = {"eval_rewards/accuracies": "accuracy", "eval_rewards/margins": "margin", "eval_nll": "nll"}
    found: dict[str, float] = {}
    for key, name in names.items():
        with suppress(TypeError, ValueError):
            if last is not None and key in last:
                found[name] = float(last[key])
    return found


def _intervals(places: Mapping[str, Any]) -> dict[str, Interval]:
    """Return those of the values that are intervals, in the form that JSON has."""
    found = {}
    for name, value in places.items():
        with suppress(TypeError, ValueError, KeyError):
            low, mid, high = (float(value[end]) for end in ("low", "estimate", "high"))
            found[name] = Interval(mid, low, high, float(value["level"]), int(value["n"]))
    return found


def _of_report(report: Mapping[str, Any]) -> dict[str, Interval]:
    """Return the numbers of report.json by the names that a comparison uses."""
    contrast, samples = _inner(report, "held_out", "contrast"), _inner(report, "samples", "after")
    attained = _inner(report, "gold", "attainment")
    kl = _inner(attained, "kl") or _inner(samples, "kl")
    return _intervals(
        {
            "gold_reward": _inner(attained, "policy"),
            "win_rate": _inner(report, "gold", "win_rate"),
            "accuracy": _inner(contrast, "accuracy", "after"),
            "margin": _inner(contrast, "margin", "after"),
            "nll": _inner(report, "held_out", "nll", "after"),
            "kl": kl,
            "length": _inner(samples, "length"),
        }
    )


def _cards(report: Mapping[str, Any] | None) -> Sequence[Any]:
    cards = (report or {}).get("cards")
    return cards if isinstance(cards, list) else []


def _of_loop(cards: Sequence[Any]) -> dict[str, Interval]:
    """Return the numbers of the last round of a loop."""
    last = cards[-1] if cards else {}
    return _intervals({name: _inner(last, name) for name in ("reward", "held_out", "kl")})


def plain_values(value: Any) -> Any:
    """Return a value as JSON has it: None for a number that is not finite, a text for a date."""
    if isinstance(value, Mapping):
        return {str(key): plain_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_values(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


STUDIES = {"comparison.json": "sweep", "frontier.json": "frontier", "methods.json": "methods"}
"""File that marks the folder of a study → its kind."""


def studies_in(folder: Path, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the kind of each study whose results are in a folder, and its headline."""
    for name, kind in STUDIES.items():
        if name not in names:
            continue
        headline = ""
        with suppress(Damaged, OSError, json.JSONDecodeError):
            found = read_mapping(folder / name) or {}
            sentences = found.get("sentences")
            headline = str(found.get("headline") or (" ".join(map(str, sentences)) if sentences else ""))
        yield kind, headline
