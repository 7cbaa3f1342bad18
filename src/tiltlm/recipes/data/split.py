"""The split recipe: read the prompts of all rows, decide the part of each, and write the parts with an account."""

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiltlm.core.errors import ConfigError, DataError, RunError
from tiltlm.data import DataSettings
from tiltlm.data.data_settings import FILE_KEYS, LABEL_KEYS, paths_of
from tiltlm.data.files.text_files import Row
from tiltlm.data.files.writing import format_of, to_line
from tiltlm.data.similarity.contamination import Overlap
from tiltlm.data.splits.files import write_rows
from tiltlm.data.splits.plan import LEFT_OUT, PARTS, Part, SplitPlan, SplitRule, part_rows
from tiltlm.data.splits.reading import STEP, Reading, index_evaluation, read_data, read_prompts
from tiltlm.recipes.progress import ProgressCallback, silent
from tiltlm.storage.files import atomic_folder, check_writable, write_bytes, write_json

SPLIT_READS = (
    *LABEL_KEYS,
    *FILE_KEYS,
    *("data.train", "data.split", "data.subset", "data.revision", "data.limit", "data.columns", "data.ignore"),
    *("data.on_bad", "data.max_bad"),
)
"""Settings that the command reads."""
ACCOUNT = "split.json"
CONTAMINATED = "contaminated.jsonl"
SHOWN = 5
"""Overlaps that the summary names."""


@dataclass(frozen=True)
class SplitSettings:
    """Settings of the split recipe."""

    data: DataSettings


@dataclass(frozen=True)
class SplitRequest:
    """How the data is divided, and where the parts go."""

    output: Path
    rule: SplitRule
    stratify: str | None = None
    """Column by which the split is stratified."""
    against: tuple[str, ...] = ()
    """Evaluation data."""
    drop_contaminated: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.drop_contaminated and not self.against:
            raise ConfigError(
                "--drop-contaminated has no effect without evaluation data; name it: --against FILE",
                code="no_effect",
                key="--drop-contaminated",
            )
        if not self.output.exists():
            _check_parent(self.output)
            return
        if not self.output.is_dir() or (any(self.output.iterdir()) and not (self.output / ACCOUNT).exists()):
            raise ConfigError(
                f"--output {self.output} exists and is no split; choose a new folder",
                code="output_exists",
                key="--output",
            )
        if any(self.output.iterdir()) and not self.overwrite:
            raise ConfigError(
                f"--output {self.output} holds a split; give --overwrite to replace it, or another name",
                code="output_exists",
                key="--output",
            )


def _check_parent(output: Path) -> None:
    try:
        check_writable(output.parent)
    except OSError as error:
        raise ConfigError(
            f"--output {output} cannot be made: {error.strerror or error}", code="not_writable", key="--output"
        ) from error


@dataclass(frozen=True, repr=False)
class SplitData:
    """A split that was written."""

    path: Path
    """The folder."""
    account: Mapping[str, Any]
    """The content of split.json: rows, prompts, groups and fingerprint of each part, and what was left out."""

    def __repr__(self) -> str:
        parts = ", ".join(f"{name} {part['rows']:,} rows" for name, part in self.account["parts"].items())
        return f"SplitData: {parts}; in {self.path}"

    def summary(self) -> str:
        """Return what the command line prints: the parts, what was left out, and how to train on them."""
        account = self.account
        head = f"{account['rows']:,} rows, {account['prompts']:,} prompts, {account['groups']:,} groups"
        lines = [head, "", f"{'part':<11} {'rows':>10} {'prompts':>10} {'groups':>10}  {'fingerprint':<16}  file"]
        for name, part in account["parts"].items():
            numbers = f"{part['rows']:>10,} {part['prompts']:>10,} {part['groups']:>10,}"
            lines.append(f"{name:<11} {numbers}  {part['fingerprint'][:16]:<16}  {self.path / part['file']}")
        lines += [f"left out: {count:,} rows, {cause}" for cause, count in account["left_out"].items()]
        if (found := account["contamination"]) is not None:
            kinds = ", ".join(f"{kind} {count:,}" for kind, count in found["kinds"].items()) or "none"
            ending = ", left out" * (found["rows"] > 0 and found["dropped"])
            overlap = f"{found['rows']:,} ({kinds}){ending}"
            lines.append(f"training rows that overlap with {', '.join(found['against'])}: {overlap}")
            lines += [f"  {one['row']} ~ {one['other']}: {one['kind']}, {one['share']:.0%}" for one in found["first"]]
            if found["rows"] and not found["dropped"]:
                lines.append(f"  all are in {self.path / CONTAMINATED}; --drop-contaminated leaves them out")
        parts = account["parts"]
        if "validation" in parts:
            train, held_out = (self.path / parts[name]["file"] for name in ("train", "validation"))
            lines += ["", f"train with  data.train={train} data.eval={held_out}"]
        return "\n".join(lines)


def split(settings: SplitSettings, request: SplitRequest, *, progress: ProgressCallback = silent) -> SplitData:
    """Divide data by prompt, and write each part to a file. The data is read twice, and never held in memory.

    Args:
        settings: The data.
        request: The shares, the evaluation data, and the output folder.
        progress: Called with the number of rows read and written.

    Raises:
        ConfigError: A setting cannot work, or has no effect.
        DataError: The data cannot be read, has too many defective rows, or a part gets no row.
        RunError: The files cannot be written.
    """
    _refuse_input_in_output(settings.data, request.output)
    progress("find the columns", 0, 0)
    reading = read_data(settings.data)
    if request.stratify is not None and request.stratify not in reading.columns:
        raise DataError(
            f"--stratify {request.stratify}: no such column; the data has {', '.join(sorted(reading.columns))}",
            code="no_such_column",
            key="--stratify",
        )
    evaluation = index_evaluation(request.against) if request.against else None
    plan, accounting, overlaps = read_prompts(
        reading, request.rule, request.stratify, evaluation,
        lambda done: progress("read the rows", done, reading.num_rows),
    )  # fmt: skip
    accounting.check_limit(settings.data.max_bad, settings.data.on_bad)
    progress("compare the prompts", 0, 0)
    groups = plan.groups()
    parts = part_rows(plan.parts_of_groups(groups), plan.prompts, groups)
    overlapping = np.isin(plan.prompts, list(overlaps)) & (parts == PARTS.index("train"))
    kept = np.where(overlapping, LEFT_OUT, parts) if request.drop_contaminated else parts
    shares = {"train": 1.0, "validation": request.rule.eval, "test": request.rule.test}
    files = {part: f"{part}{format_of(paths_of(settings.data.train))}" for part in PARTS if shares[part] > 0}
    account = {
        **account_of(plan, kept, groups, files),
        "left_out": {cause: counts.count for cause, counts in accounting.losses.items()},
        "rule": {**asdict(request.rule), "stratify": request.stratify},
        "contamination": None,
    }
    _refuse_empty_parts(account)
    with _output_folder(request) as folder:
        marked = _Marked(plan, kept, overlapping, overlaps)
        rows = marked.rows(reading, progress)
        write_rows(folder, files, rows, paths_of(settings.data.train))
        if evaluation is not None:
            account["contamination"] = marked.account(request)
            write_bytes(folder / CONTAMINATED, b"".join(map(to_line, marked.found)))
        write_json(folder / ACCOUNT, account)
    return SplitData(request.output, account)


def account_of(
    plan: SplitPlan, parts: NDArray[np.int64], groups: NDArray[np.int64], files: Mapping[Part, str]
) -> dict[str, Any]:
    """Return rows, prompts, groups and fingerprint of all data and of each part."""
    prompts = np.array(plan.prompts, np.int64)

    def numbers(rows: NDArray[np.bool_]) -> dict[str, Any]:
        of_rows = np.unique(prompts[rows])
        found = {"rows": int(rows.sum()), "prompts": len(of_rows), "groups": len(np.unique(groups[of_rows]))}
        return {**found, "fingerprint": plan.fingerprint(rows)}

    by_part = {}
    for part, name in files.items():
        rows = parts == PARTS.index(part)
        by_part[part] = {"file": name, **numbers(rows)}
        if plan.rule.by_stratum:
            by_part[part]["strata"] = dict(sorted(Counter(plan.strata(rows)).items()))
    return {**numbers(prompts != LEFT_OUT), "parts": by_part}


@dataclass
class _Marked:
    """The part of each row, and the rows that overlap with evaluation data, as they pass by."""

    plan: SplitPlan
    parts: NDArray[np.int64]
    overlapping: NDArray[np.bool_]
    overlaps: Mapping[int, Overlap]
    found: list[dict[str, Any]] = field(default_factory=list)

    def rows(self, reading: Reading, progress: ProgressCallback) -> Iterator[tuple[Part | None, Row]]:
        """Read all rows again, and yield each with its part.

        Raises:
            RunError: There are not as many rows as before.
        """
        count = 0
        for count, row in enumerate(reading.rows, start=1):
            if count > len(self.parts):
                break
            if count % STEP == 0:
                progress("write the rows", count, reading.num_rows)
            if self.overlapping[count - 1]:
                self.found.append({"row": row.location, **asdict(self.overlaps[self.plan.prompts[count - 1]])})
            part = self.parts[count - 1]
            yield None if part == LEFT_OUT else PARTS[part], row
        if count != len(self.parts):
            raise RunError("the data changed while it was read; run the command again", code="data_changed")

    def account(self, request: SplitRequest) -> dict[str, Any]:
        """Return how many training rows overlap, by kind, and the first ones."""
        return {
            "against": list(request.against),
            "rows": len(self.found),
            "kinds": dict(Counter(one["kind"] for one in self.found)),
            "dropped": request.drop_contaminated,
            "first": self.found[:SHOWN],
        }


@contextmanager
def _output_folder(request: SplitRequest) -> Iterator[Path]:
    """Make the output folder, complete or not at all; the split in it before is removed at the end."""
    output = request.output
    earlier = output.with_name(f".{output.name}.earlier")
    try:
        with atomic_folder(output) as folder:
            yield folder
            if output.exists():
                shutil.rmtree(earlier, ignore_errors=True)
                output.rename(earlier)
    except OSError as error:
        if earlier.exists() and not output.exists():
            earlier.rename(output)
        raise RunError(
            f"--output {output} could not be written: {error.strerror or error}", code="not_writable", key="--output"
        ) from error
    shutil.rmtree(earlier, ignore_errors=True)


def _refuse_input_in_output(settings: DataSettings, output: Path) -> None:
    """Refuse to replace a folder that has the data in it."""
    for name in paths_of(settings.train):
        if Path(name).exists() and output.exists() and Path(name).resolve().is_relative_to(output.resolve()):
            raise ConfigError(
                f"--output {output} holds the data itself ({name}); choose another folder",
                code="conflict",
                key="--output",
            )


def _refuse_empty_parts(account: Mapping[str, Any]) -> None:
    """Refuse a split in which a part has no row."""
    for name, part in account["parts"].items():
        if not part["rows"]:
            raise DataError(
                f"{name} gets none of the {account['groups']:,} groups of prompts; raise its share, add data, or "
                "choose another --seed",
                code="empty_part",
                key="--eval" if name == "validation" else f"--{name}",
            )
