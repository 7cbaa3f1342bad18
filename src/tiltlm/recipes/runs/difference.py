"""`tiltlm runs diff`: how two runs differ, in settings, versions, inputs, data, results and curves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiltlm.core.errors import ConfigError
from tiltlm.estimates.intervals import Interval, bootstrap_mean
from tiltlm.recipes.runs.files import Damaged, plain_line, read_config, read_mapping, read_records
from tiltlm.recipes.runs.found import FoundRun, is_run, look_at, plain_values
from tiltlm.report.numbers import format_number, with_bounds
from tiltlm.report.series import Series, series_of

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "tiltlm.runs-diff/1"
OWN = frozenset({"output"})
"""Settings that differ between any two runs."""
TITLES = {
    "gold_reward": "gold reward",
    "win_rate": "win rate against untrained",
    "accuracy": "held-out ranking accuracy",
    "margin": "held-out margin",
    "nll": "held-out nll, nats per token",
    "reward": "reward of the last round",
    "held_out": "held-out reward of the last round",
    "kl": "KL, nats per response",
    "length": "tokens per response",
}
PERCENT = frozenset({"accuracy", "win_rate"})
LAST_VALUES = ("loss", "eval_loss", "eval_rewards/accuracies", "eval_rewards/margins", "eval_nll")
"""Metrics whose last value the text shows."""
ROUND_NUMBERS = ("reward", "held_out", "kl")
CUT = 80
"""Most characters of a setting in the text."""


@dataclass(frozen=True)
class Change:
    """A value that differs between two runs."""

    key: str
    a: Any
    b: Any


@dataclass(frozen=True)
class Result:
    """A measured number of both runs."""

    name: str
    a: Interval | None
    b: Interval | None
    paired: Interval | None = None
    """B − A by prompt, where both were measured on the same prompts: narrower than the two intervals suggest."""

    @property
    def overlap(self) -> bool | None:
        """Whether the two intervals overlap; None if one of them is missing or has no ends."""
        if self.a is None or self.b is None or not all(map(math.isfinite, (self.a.low, self.b.low))):
            return None
        return self.a.low <= self.b.high and self.b.low <= self.a.high


@dataclass(frozen=True)
class Curve:
    """One metric over both runs."""

    name: str
    unit: str
    """What the horizontal axis counts: `step` or `round`."""
    a: Series | None
    b: Series | None


@dataclass(frozen=True, repr=False)
class RunDifference:
    """How two runs differ. A list without entries means that they agree."""

    a: FoundRun
    b: FoundRun
    settings: tuple[Change, ...]
    versions: tuple[Change, ...]
    same: Mapping[str, bool | None]
    """`model`, `reference`, `data`, `held-out data` → whether both runs had the same; None if it is not known."""
    data: tuple[Change, ...]
    """What became of the rows."""
    results: tuple[Result, ...]
    last: tuple[Change, ...]
    """Last values of the curves; without intervals."""
    curves: tuple[Curve, ...]
    equal_to: int | None
    """The last step up to which all losses are equal, bit for bit; None if the first ones differ."""
    parts_at: int | None
    """The first step at which the losses differ; None if none does, as far as both runs go."""
    notes: tuple[str, ...]
    """What could not be compared, and why."""
    page: Path | None = None
    """The page that was written."""
    prints_json: bool = False

    def __repr__(self) -> str:
        return f"RunDifference: A = {self.a.path}, B = {self.b.path}\n" + "\n".join(f"  {s}" for s in self.sentences())

    def _repr_html_(self) -> str:
        """Return the page for a notebook."""
        from tiltlm.report.page import in_frame

        return in_frame(self.html())

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the curves as plain values, as `--json` prints it."""
        plain = {
            "schema": SCHEMA,
            "a": self.a.to_dict(),
            "b": self.b.to_dict(),
            "same": dict(self.same),
            **{name: [vars(one) for one in getattr(self, name)] for name in ("settings", "versions", "data", "last")},
            "results": [
                {
                    "name": one.name,
                    **{end: value and vars(value) for end, value in (("a", one.a), ("b", one.b), ("b-a", one.paired))},
                    "overlap": one.overlap,
                }
                for one in self.results
            ],
            "losses": {"equal_to": self.equal_to, "parts_at": self.parts_at},
            "notes": list(self.notes),
        }
        return dict(plain_values(plain))

    def to_pandas(self) -> pd.DataFrame:
        """Return the results, one row a number, with the ends of the intervals."""
        import pandas as pd

        rows = {}
        for one in self.results:
            row: dict[str, Any] = {}
            for side, number in (("a", one.a), ("b", one.b), ("difference", one.paired)):
                values = (math.nan,) * 3 if number is None else (number.estimate, number.low, number.high)
                row |= dict(zip((side, f"{side}_low", f"{side}_high"), values, strict=True))
            rows[one.name] = {**row, "overlap": one.overlap}
        return pd.DataFrame.from_dict(rows, orient="index")

    def sentences(self) -> Iterator[str]:
        """Yield the answers to what one asks first: the same inputs, the same settings, the same results?"""
        by_answer = {answer: [n for n, same in self.same.items() if same is answer] for answer in (True, False, None)}
        if by_answer[True]:
            yield f"The same {', '.join(by_answer[True])}."
        if by_answer[False]:
            yield f"Different {', '.join(by_answer[False])}."
        if by_answer[None]:
            yield f"Not known whether the same: {', '.join(by_answer[None])}."
        yield f"{len(self.settings) or 'No'} setting{'' if len(self.settings) == 1 else 's'} differ" + (
            "s." if len(self.settings) == 1 else "."
        )
        other_reward = any(one.key.split(".")[0] == "objective" for one in self.settings)
        for one in self.results:
            if one.a is not None and one.b is not None:
                yield _sentence(one, is_comparable=one.name != "margin" or not other_reward)
        if self.parts_at is not None and self.equal_to is not None:
            yield f"The losses are equal, bit for bit, up to step {self.equal_to}, and differ at step {self.parts_at}."
        elif self.parts_at is not None:
            yield f"The losses differ from step {self.parts_at} on, the first that both recorded."
        elif self.equal_to is not None:
            yield f"All losses up to step {self.equal_to} are equal, bit for bit."
        yield from self.notes

    def summary(self) -> str:
        """Return what the command line prints."""
        parts = [f"A  {plain_line(str(self.a.path))}\nB  {plain_line(str(self.b.path))}", "\n".join(self.sentences())]
        lists = (("settings", self.settings), ("versions", self.versions), ("data", self.data), ("last", self.last))
        for title, changes in lists:
            if changes:
                width = max(len(one.key) for one in changes)
                lines = [f"  {one.key.ljust(width)}  {_text(one.a)} → {_text(one.b)}" for one in changes]
                parts.append("\n".join([f"{LIST_TITLES[title]} (A → B)", *lines]))
        if self.page is not None:
            parts.append(f"page  {self.page}")
        return "\n\n".join(parts)

    def html(self) -> str:
        """Return the page, with the curves of both runs on the same axes."""
        from tiltlm.report.comparison.difference import Overlay, render_difference

        names = f"A: {self.a.path.name}", f"B: {self.b.path.name}"
        changes = {
            LIST_TITLES[title]: [(one.key, _text(one.a, 400), _text(one.b, 400)) for one in getattr(self, title)]
            for title in LIST_TITLES
        }
        results = [(TITLES[one.name], one.a, one.b, one.paired, one.name in PERCENT) for one in self.results]
        overlays = [Overlay(one.name, one.unit, one.a, one.b) for one in self.curves]
        return render_difference(names, list(self.sentences()), results, changes, overlays)


LIST_TITLES = {
    "settings": "Settings that differ",
    "versions": "Versions that differ",
    "data": "What became of the rows",
    "last": "Last values",
}


def compare_runs(a: Path, b: Path, *, html: Path | None = None, prints_json: bool = False) -> RunDifference:
    """Return how two runs differ. Nothing in their folders is changed, and no lock is taken.

    Args:
        a: A run directory.
        b: Another one.
        html: Page to write.
        prints_json: As in `RunDifference`.

    Raises:
        ConfigError: one of the folders is no run.
        RunError: the page cannot be written.
    """
    first, second = _Side.read(a, "A"), _Side.read(b, "B")
    equal_to, parts_at = _where_losses_part(first.records, second.records)
    found = RunDifference(
        first.run,
        second.run,
        tuple(_changes(first.config, second.config, leave_out=OWN)),
        tuple(_changes(first.versions, second.versions)),
        _same_inputs(first, second),
        tuple(_changes(first.rows, second.rows)) if first.rows and second.rows else (),
        tuple(_results(first, second)),
        tuple(_last_values(first.records, second.records)),
        tuple(_curves(first, second)),
        equal_to,
        parts_at,
        tuple(_notes(first, second)),
        html,
        prints_json,
    )
    if html is not None:
        from tiltlm.report.page import write

        write(html, found.html())
    return found


@dataclass(frozen=True)
class _Side:
    """What one run directory holds, as far as it can be read."""

    name: str
    run: FoundRun
    config: Mapping[str, Any]
    versions: Mapping[str, Any]
    digests: Mapping[str, Any]
    data: Mapping[str, Any]
    report: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    unread: Sequence[str]

    @classmethod
    def read(cls, folder: Path, name: str) -> _Side:
        """Read a run directory.

        Args:
            folder: Its path.
            name: `A` or `B`, for messages.

        Raises:
            ConfigError: it is none.
        """
        try:
            found = folder.is_dir() and is_run(folder)
        except Damaged as error:
            raise ConfigError(f"{folder}: {error}", code="no_run", key=name) from error
        if not folder.is_dir():
            raise ConfigError(f"{folder}: there is no such folder", code="no_run", key=name)
        if not found:
            raise ConfigError(
                f"{folder}: this is no run directory, which has run.json; `tiltlm runs {folder}` lists the runs below "
                "a folder",
                code="no_run",
                key=name,
            )
        unread: list[str] = []

        def tried(read: Any, *args: Any) -> Any:
            try:
                return read(*args)
            except Damaged as error:
                unread.append(str(error))
                return None

        run = look_at(folder)
        report = tried(read_mapping, folder / ("loop.json" if run.kind == "loop" else "report.json")) or {}
        versions, digests, data = (
            tried(read_mapping, folder / f"{part}.json") or {} for part in ("versions", "digests", "data")
        )
        records = tried(read_records, folder / "metrics.jsonl") or []
        return cls(name, run, tried(read_config, folder) or {}, versions, digests, data, report, records, unread)

    @property
    def rows(self) -> Mapping[str, Any]:
        """The counts in data.json, without digests."""
        return {key: value for key, value in self.data.items() if key not in ("fingerprint", "content")}

    @property
    def accuracy_by_prompt(self) -> Mapping[str, float]:
        """Held-out ranking accuracy of each prompt; empty if it is not known."""
        found = (self.report.get("held_out") or {}).get("accuracy_by_prompt")
        return found if isinstance(found, Mapping) else {}


_MISSING = "(missing)"


def _changes(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "", leave_out: Any = ()) -> Iterator[Change]:
    """Yield the values that differ, with dotted keys. A section that only one side has is one value."""
    for key in dict.fromkeys([*a, *b]):
        if key in leave_out:
            continue
        own, other = a.get(key, _MISSING), b.get(key, _MISSING)
        if isinstance(own, Mapping) and isinstance(other, Mapping):
            yield from _changes(own, other, f"{prefix}{key}.")
        elif own != other:
            yield Change(f"{prefix}{key}", own, other)


def _same_inputs(a: _Side, b: _Side) -> dict[str, bool | None]:
    """Return which inputs are the same, by their digests."""

    def same(own: Any, other: Any) -> bool | None:
        return None if own is None or other is None else own == other

    inputs = {part: same(a.digests.get(part), b.digests.get(part)) for part in ("model", "reference", "data")}
    content = [(side.data.get("content") or {}).get("held_out") for side in (a, b)]
    if any(content):
        inputs["held-out data"] = same(*content)
    if all(one is None for one in inputs.values()):  # a loop writes no digests
        return {}
    return inputs


def _results(a: _Side, b: _Side) -> Iterator[Result]:
    """Yield the numbers that a run has."""
    for name in TITLES:
        own, other = a.run.numbers.get(name), b.run.numbers.get(name)
        if own is None and other is None:
            continue
        paired = None
        first, second = a.accuracy_by_prompt, b.accuracy_by_prompt
        if name == "accuracy" and first and first.keys() == second.keys():
            paired = bootstrap_mean([float(second[prompt]) - float(first[prompt]) for prompt in sorted(first)])
        yield Result(name, own, other, paired)


def _sentence(one: Result, *, is_comparable: bool) -> str:
    """Return both numbers of a result, and whether their intervals overlap if the numbers have one unit."""
    assert one.a is not None
    assert one.b is not None
    percent = one.name in PERCENT
    text = (
        f"{TITLES[one.name].capitalize() if one.name != 'kl' else TITLES[one.name]}: "
        f"A {with_bounds(one.a, percent=percent)}, B {with_bounds(one.b, percent=percent)}"
    )
    have_width = any(side.low != side.high for side in (one.a, one.b))
    if is_comparable and one.overlap is not None and have_width:
        text += "; the intervals overlap" if one.overlap else "; the intervals do not overlap"
    if one.paired is not None and one.paired.low == one.paired.high == 0:
        text += ". Paired by prompt, there is no difference"
    elif one.paired is not None:
        clear = "" if one.paired.excludes_zero else ", which includes 0"
        text += f". Paired by prompt, B − A is {with_bounds(one.paired, percent=percent, signed=True)}{clear}"
    return f"{text}."


def _where_losses_part(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]) -> tuple[int | None, int | None]:
    """Return the last step with equal losses before the first that differs, and that one."""
    own, other = ({r["step"]: r["loss"] for r in records if "loss" in r and "step" in r} for records in (a, b))
    equal = None
    for step in sorted(own.keys() & other.keys()):
        if own[step] != other[step]:
            return equal, step
        equal = step
    return equal, None


def _last_values(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]) -> Iterator[Change]:
    """Yield the last value of the main metrics of both runs."""
    for name in LAST_VALUES:
        ends = [next((r for r in reversed(records) if name in r), None) for records in (a, b)]
        if any(ends):
            shown = [None if end is None else f"{_number(end[name])} at step {end['step']}" for end in ends]
            yield Change(name, *shown)


def _number(value: Any) -> str:
    try:
        return format_number(float(value))
    except (TypeError, ValueError):
        return str(value)


def _curves(a: _Side, b: _Side) -> Iterator[Curve]:
    """Yield the metrics that one of the runs recorded, over steps, and of loops over rounds."""
    found = [{(s.name, s.part): s for s in series_of(side.records)} for side in (a, b)]
    for key in dict.fromkeys([*found[0], *found[1]]):
        name = f"{key[0]}, {'training batches' if key[1] == 'train' else 'held out'}"
        yield Curve(name, "step", found[0].get(key), found[1].get(key))
    for name in ROUND_NUMBERS:
        rounds = [_over_rounds(side, name) for side in (a, b)]
        if any(rounds):
            yield Curve(f"{name.replace('_', ' ')} by round", "round", *rounds)


def _over_rounds(side: _Side, name: str) -> Series | None:
    """Return a number of a loop's cards over its rounds; None if it was not measured."""
    cards = side.report.get("cards")
    cards = cards if isinstance(cards, list) else []
    points = [(float(card["round"]), float(card[name]["estimate"])) for card in cards if card.get(name)]
    return Series(name, "held_out", *map(tuple, zip(*points, strict=True))) if points else None


def _notes(a: _Side, b: _Side) -> Iterator[str]:
    """Yield what could not be compared, and what makes a comparison doubtful."""
    for side in (a, b):
        yield from (f"{side.name}: {plain_line(text)}." for text in side.unread)
        if side.run.state != "finished":
            yield f"{side.name} is not finished ({side.run.state}), so its results may be missing."
    if a.run.kind != b.run.kind:
        yield f"A is a {a.run.kind} run and B a {b.run.kind} run; they have few numbers in common."
    if _same_inputs(a, b).get("held-out data") is False:
        yield "The held-out data differ, so the results are of different prompts."
    rewards = [side.config.get("objective") for side in (a, b)]
    if rewards[0] != rewards[1] and "margin" in a.run.numbers and "margin" in b.run.numbers:
        yield "Margins are in units of each run's own reward, and the objectives differ: do not compare them."


def _text(value: Any, most: int = CUT) -> str:
    """Return a value as a user would write it, on one line."""
    if isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, float):
        text = f"{value:g}"
    elif isinstance(value, Mapping):
        text = "{" + ", ".join(f"{key}: {_text(item)}" for key, item in value.items()) + "}"
    elif value is None:
        text = "null"
    else:
        text = str(value)
    text = plain_line(text)
    return text if len(text) <= most else f"{text[:most]}…"
