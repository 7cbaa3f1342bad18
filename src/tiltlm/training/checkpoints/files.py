"""Checkpoints that are complete or absent: weights, optimiser state and counters, as safetensors and JSON.

Files are written to a temporary folder, synchronised to the disk, listed in a manifest of sizes and hashes, and the
folder is renamed: a kill at any moment leaves the last checkpoint intact. The hash of the manifest is in a file of its
own. Tensors with NaN or infinities are refused, so the newest checkpoint is always one that a run can continue from.
Nothing is pickled, so that a checkpoint from someone else cannot run code.

Whole tensors are written by rank 0, one file a part. Of sharded ones every process writes, synchronises and hashes its
own files, in one folder a part; rank 0 writes the manifest and renames.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from tiltlm.core.errors import RunError
from tiltlm.core.finite import not_finite
from tiltlm.distributed.position import HERE
from tiltlm.distributed.ranks import Ranks
from tiltlm.distributed.wrapping import local_part
from tiltlm.storage.files import sync
from tiltlm.storage.versions import python_and_packages
from tiltlm.training.checkpoints.shards import Shards, files_of, write_shards

FORMAT = 4
"""Since 4 a checkpoint may be sharded, and state.json has the sums of metrics of every process."""
READABLE = (3, 4)
PARTS = ("policy", "optimizer", "reference")
"""A part is a file `NAME.safetensors`, or a folder `NAME` of shards. The reference has none unless it moves."""
STATE, MANIFEST = "state.json", "manifest.json"
MANIFEST_HASH = "manifest.sha256"
"""The hash of the manifest, in the form that the program `sha256sum` reads."""
ASIDE = "ruined-"
"""Prefix of a checkpoint whose weights give no finite loss. It is kept for a look at it and never continued from."""
REPLACED = ".replaced-"
"""Prefix of a checkpoint while another one of the same step takes its place."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """All that resuming needs."""

    policy: Mapping[str, Tensor]
    """Trainable weights by parameter name."""
    optimizer: Mapping[str, Tensor]
    """Optimiser state as `parameter.moment`."""
    state: dict[str, Any]
    """Counters and the identity of the run, as JSON values."""
    reference: Mapping[str, Tensor] = field(default_factory=dict)
    """Weights of a reference that moves, by parameter name; empty for any other."""

    @property
    def parts(self) -> dict[str, Mapping[str, Tensor]]:
        """The tensors of each part."""
        return {name: getattr(self, name) for name in PARTS}

    @property
    def is_sharded(self) -> bool:
        """True if each process has a part of the weights."""
        return any(isinstance(tensor, DTensor) for tensor in self.policy.values())

    def copied(self) -> "Checkpoint":
        """Return the same tensors in memory of their own, on the CPU: training does not change them any more."""
        parts = {
            part: {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
            for part, tensors in self.parts.items()
        }
        return replace(self, **parts)


def numeric_environment() -> dict[str, Any]:
    """Return what bit-for-bit equality depends on besides the run itself."""
    return {
        **python_and_packages("tiltlm", "torch", "transformers", "numpy"),
        "num_threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def folder_of(folder: Path, step: int) -> Path:
    """Return the folder of a step's checkpoint."""
    return folder / f"step-{step:08d}"


def steps_in(folder: Path) -> list[int]:
    """Return the steps that have a checkpoint, damaged ones included, in ascending order."""
    return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*") if _is_checkpoint(path))


def others_in(folder: Path) -> list[str]:
    """Return the names that begin like a checkpoint's and are none, for example a copy `step-00000002.bak`."""
    return sorted(path.name for path in folder.glob("step-*") if not _is_checkpoint(path))


def _is_checkpoint(path: Path) -> bool:
    digits = path.name.removeprefix("step-")
    return digits.isdecimal() and digits.isascii() and path == folder_of(path.parent, int(digits)) and path.is_dir()


def commit(
    folder: Path,
    step: int,
    checkpoint: Checkpoint,
    setting: Mapping[str, Any] | None = None,
    ranks: Ranks | None = None,
) -> Path:
    """Write the checkpoint of a step and return its folder. When this returns, the checkpoint survives a power cut.

    All processes call this together, in a folder that all of them see.

    Args:
        folder: The folder of all checkpoints.
        step: Steps done.
        checkpoint: What to write. If it is not sharded, only that of rank 0 is used.
        setting: What bit-for-bit equality depends on besides this machine, as JSON values.
        ranks: The processes of the run. None means this process only.

    Raises:
        RunError: it could not be written, or holds NaN or infinities. Nothing is left of it, and earlier checkpoints
            are unchanged. The error is the same in all processes.
    """
    ranks = ranks or Ranks()
    _refuse_not_finite(step, checkpoint, ranks)
    target = folder_of(folder, step)
    temporary = folder / f".{target.name}.tmp"
    try:
        ranks.first(lambda: _begin(temporary, checkpoint))
        try:
            files = _write_sharded(temporary, checkpoint, ranks) if checkpoint.is_sharded else None
            ranks.first(lambda: _finish(temporary, target, step, checkpoint, files, setting or {}))
        finally:
            if ranks.is_first:
                shutil.rmtree(temporary, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        newest = steps_in(folder)
        kept = f"the checkpoint of step {newest[-1]} is unchanged" if newest else "there is no earlier one"
        raise RunError(
            f"{target}: the checkpoint could not be written ({error}); {kept}. Free space there, or lower "
            "training.keep_checkpoints, then continue with --resume",
            code="not_writable",
        ) from error
    return target


def _refuse_not_finite(step: int, checkpoint: Checkpoint, ranks: Ranks) -> None:
    parts = {"weights": checkpoint.policy, "optimiser state": checkpoint.optimizer, "reference": checkpoint.reference}
    found = {part: not_finite({name: local_part(t) for name, t in own.items()}) for part, own in parts.items()}
    everywhere = ranks.gather(found)
    for part in parts:
        if names := sorted({name for found in everywhere for name in found[part]}):
            raise RunError(
                f"no checkpoint of step {step} is written: NaN or infinities in {len(names)} tensors of the {part}, "
                f"first in {names[0]}. Earlier checkpoints are unchanged. Start a run in another folder "
                "(output=NEW_FOLDER) with a smaller training.learning_rate or training.max_grad_norm",
                code="checkpoint_not_finite",
                key="training.learning_rate",
            )


def _begin(temporary: Path, checkpoint: Checkpoint) -> None:
    """Make the folder to write to, where the disk has room."""
    temporary.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(temporary, ignore_errors=True)  # an interrupted process left it
    tensors = [tensor for own in checkpoint.parts.values() for tensor in own.values()]
    check_space(temporary.parent, sum(t.numel() * t.element_size() for t in tensors))
    temporary.mkdir()


def _write_sharded(temporary: Path, checkpoint: Checkpoint, ranks: Ranks) -> dict[str, Any]:
    """Write the files of this process, and return size and hash of those of all processes by name."""
    for part, tensors in checkpoint.parts.items():
        write_shards(temporary / part, tensors, ranks)

    def seal_own() -> dict[str, Any]:
        own = [file for part in PARTS for file in files_of(temporary / part, ranks.rank)]
        return {str(file.relative_to(temporary)): _seal(file) for file in own}

    return {name: entry for files in ranks.together(seal_own) for name, entry in files.items()}


def _finish(
    temporary: Path,
    target: Path,
    step: int,
    checkpoint: Checkpoint,
    files: dict[str, Any] | None,
    setting: Mapping[str, Any],
) -> None:
    """Write what rank 0 writes, and give the folder its name.

    Args:
        temporary: The folder.
        target: Its path when it is complete.
        step: Steps done.
        checkpoint: What to write.
        files: Size and hash of the files that the processes have written; None: rank 0 writes the tensors too.
        setting: As for `commit`.
    """
    if files is None:
        files = {}
        for part, tensors in checkpoint.parts.items():
            if tensors or part != "reference":
                save_file(_plain(tensors), temporary / f"{part}.safetensors")
                files[f"{part}.safetensors"] = _seal(temporary / f"{part}.safetensors")
    elif unseen := [name for name in files if not (temporary / name).is_file()]:
        raise OSError(
            f"{unseen[0]} was written by another process and is not there for rank 0: the folder of the run must be on "
            "a file system that all processes share"
        )
    (temporary / STATE).write_text(json.dumps(checkpoint.state, indent=1), encoding="utf-8")
    files[STATE] = _seal(temporary / STATE)
    manifest = {"format": FORMAT, "step": step, "files": files, "environment": numeric_environment() | dict(setting)}
    (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    (temporary / MANIFEST_HASH).write_text(f"{_sha256(temporary / MANIFEST)}  {MANIFEST}\n", encoding="utf-8")
    for name in (MANIFEST, MANIFEST_HASH):
        sync(temporary / name)
    for path in (*(temporary / part for part in PARTS if (temporary / part).is_dir()), temporary):
        sync(path)
    replaced = target.parent / f"{REPLACED}{target.name}"
    if target.exists():  # the same step again, with newer counters or in place of a damaged one
        target.rename(replaced)
    temporary.rename(target)
    sync(target.parent)
    _remove(replaced)


def check_space(folder: Path, num_bytes: int) -> None:
    """Require that the disk has room for a file.

    Args:
        folder: A folder on that disk.
        num_bytes: Size of the file.

    Raises:
        OSError: less than 1.2 × `num_bytes` is free.
    """
    free = shutil.disk_usage(folder).free
    if free < 1.2 * num_bytes:
        raise OSError(f"{free / 1e9:.3g} GB are free and {1.2 * num_bytes / 1e9:.3g} GB are needed")


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _seal(path: Path) -> dict[str, Any]:
    """Have a file on the disk, and return its size and hash."""
    HERE.tick()  # the main thread may be waiting for this one
    sync(path)
    return {"size": path.stat().st_size, "sha256": _sha256(path)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def damage(path: Path, ranks: Ranks | None = None) -> str | None:
    """Return what is wrong with a checkpoint, or None if all files are as its manifest says.

    Args:
        path: The folder of the checkpoint.
        ranks: The processes that call this together and read a share of the files each. None: this one reads all.
    """
    ranks = ranks or Ranks()
    files, reason = _listed(path)
    for name in sorted(files)[ranks.rank :: ranks.size] if reason is None else ():
        reason = reason or _changed(path, name, files[name])
    return next((found for found in ranks.gather(reason) if found is not None), None)


def _listed(path: Path) -> tuple[dict[str, tuple[int, str]], str | None]:
    """Return size and hash of each file by name, and what is wrong with the manifest or with the set of files."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        files = {name: (entry["size"], entry["sha256"]) for name, entry in manifest["files"].items()}
        if manifest["format"] not in READABLE:
            readable = " and ".join(map(str, READABLE))
            return {}, f"its format is {manifest['format']} and this version reads {readable}"
        if (path / MANIFEST_HASH).read_text(encoding="utf-8").split() != [_sha256(path / MANIFEST), MANIFEST]:
            return {}, f"the content of {MANIFEST} has changed (its sha256 is not the one in {MANIFEST_HASH})"
        if missing := {"policy", STATE} - {name.split("/")[0].removesuffix(".safetensors") for name in files}:
            return {}, f"its manifest does not name {', '.join(sorted(missing))}"
    except FileNotFoundError as error:
        return {}, f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return {}, f"{MANIFEST} cannot be read ({error})"
    there = {str(file.relative_to(path)) for part in PARTS for file in (path / part).glob("*")}
    if unknown := sorted(there - set(files)):
        return {}, f"its manifest does not name {unknown[0]}"  # all files of such a folder would be read
    return files, None


def _changed(path: Path, name: str, listed: tuple[int, str]) -> str | None:
    """Return in what a file differs from the manifest."""
    size, sha256 = listed
    if not (path / name).is_file():
        return f"{name} is missing"
    if (path / name).stat().st_size != size:
        return f"{name} has {(path / name).stat().st_size} bytes and its manifest says {size}"
    if _sha256(path / name) != sha256:
        return f"the content of {name} has changed (its sha256 is not the one in the manifest)"
    return None


def newest_valid(folder: Path, note: Callable[[str], None], ranks: Ranks | None = None) -> Path | None:
    """Return the newest checkpoint that is not damaged; None if there is no checkpoint at all.

    What an interrupted `commit` left is cleaned up first. All processes call this together.

    Args:
        folder: The folder of all checkpoints.
        note: Called with each checkpoint that is skipped, and the reason.
        ranks: The processes of the run. None means this process only.

    Raises:
        RunError: there are checkpoints and all are damaged. Starting again without a word would be worse.
    """
    ranks = ranks or Ranks()
    steps = ranks.first(lambda: _cleaned_up(folder))
    for path in (folder_of(folder, step) for step in reversed(steps)):
        reason = damage(path, ranks)
        if reason is None:
            return path
        note(f"{path} is skipped: {reason}")
    if steps:
        raise RunError(
            f"{folder}: all {len(steps)} checkpoints are damaged; start again with --overwrite", code="damaged"
        )
    return None


def _cleaned_up(folder: Path) -> list[int]:
    """Remove what an interrupted `commit` left, and return the steps that have a checkpoint."""
    for leftover in folder.glob(".step-*.tmp"):
        _remove(leftover)
    for leftover in folder.glob(f"{REPLACED}*"):
        target = folder / leftover.name.removeprefix(REPLACED)
        if target.exists():
            _remove(leftover)
        else:  # the process was killed between two renames
            leftover.rename(target)
    return steps_in(folder)


def written_by(path: Path) -> str:
    """Return the version of tiltlm that wrote a checkpoint."""
    manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    return str(manifest["environment"].get("tiltlm", "of an unknown version"))


def changes(path: Path, setting: Mapping[str, Any] | None = None) -> list[str]:
    """Return how this machine and setting differ from those that wrote a checkpoint.

    If the list is not empty, the resumed run is equal to rounding only.

    Args:
        path: The folder of the checkpoint.
        setting: As for `commit`.
    """
    then = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["environment"]
    now = numeric_environment() | dict(setting or {})
    return [f"{k} {then.get(k)} → {now.get(k)}" for k in sorted({*then, *now}) if then.get(k) != now.get(k)]


def load(path: Path, ranks: Ranks | None = None) -> Checkpoint:
    """Return a checkpoint that is not damaged. Its tensors are read when they are used.

    Args:
        path: The folder of the checkpoint.
        ranks: The processes that read shards together. None means this process only.
    """

    def part(name: str) -> Mapping[str, Tensor]:
        file = path / f"{name}.safetensors"
        return load_file(file) if file.exists() else Shards(path / name, ranks or Ranks())

    state = json.loads((path / STATE).read_text(encoding="utf-8"))
    return Checkpoint(part("policy"), part("optimizer"), state, part("reference"))


def rotate(folder: Path, step: int, keep: int, protect: Collection[int], replaced: Collection[int] = ()) -> None:
    """Remove old checkpoints after the commit of `step`.

    `step`, the `keep` − 1 checkpoints before it and the protected steps stay. Steps after `step` are removed: they were
    damaged when this run was resumed.

    Args:
        folder: The folder of all checkpoints.
        step: The step that was committed.
        keep: Number of newest checkpoints to keep.
        protect: Steps to keep in addition.
        replaced: Steps whose weights `step` has too. They are removed first.
    """
    kept = {*[s for s in steps_in(folder) if s <= step and s not in replaced][-keep:], *protect}
    for other in steps_in(folder):
        if other not in kept:
            _remove(folder_of(folder, other))


def set_aside(folder: Path, step: int) -> Path:
    """Rename the checkpoint of a step, so that no run is continued from it; return its new path."""
    aside = folder / f"{ASIDE}{folder_of(folder, step).name}"
    _remove(aside)
    folder_of(folder, step).rename(aside)
    sync(folder)
    return aside
