"""Checkpoints that are whole or absent: weights, optimiser memory and counters, as safetensors and JSON.

Files go into a temporary folder, are flushed, sealed with a manifest of sizes and hashes, and renamed in one go: a kill
at any moment leaves the last one intact. Nothing is pickled, so that a checkpoint from a stranger is inert.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tiltlm.core.errors import RunError

FORMAT = 2
POLICY, OPTIMIZER, STATE, MANIFEST = "policy.safetensors", "optimizer.safetensors", "state.json", "manifest.json"
REFERENCE = "reference.safetensors"
"""Only of a reference that moves."""
TEMPORARY, REPLACED = ".writing-", ".replaced-"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What resuming needs."""

    policy: dict[str, Tensor]
    """Trainable weights by parameter name."""
    optimizer: dict[str, Tensor]
    """AdamW's memory as `parameter.moment`."""
    state: dict[str, Any]
    """Counters and what identifies the run; JSON values."""
    reference: dict[str, Tensor] = field(default_factory=dict)
    """Weights of a reference that moves, by parameter name; empty of any other."""


def numeric_environment() -> dict[str, Any]:
    """What bit-for-bit equality depends on beside the run itself."""
    return {
        "python": python_version(),
        **{package: version(package) for package in ("tiltlm", "torch", "transformers", "numpy")},
        "num_threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def folder_of(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"step-{step:08d}"


def steps_in(folder: Path) -> list[int]:
    """Steps that have a checkpoint, whole or damaged, ascending."""
    return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*") if path.is_dir())


def commit(folder: Path, step: int, checkpoint: Checkpoint, setting: Mapping[str, Any] | None = None) -> Path:
    """Write the checkpoint of a step; when this returns, it survives a power cut.

    Args:
        folder: Where checkpoints lie.
        step: Steps done.
        checkpoint: What to keep.
        setting: What bit-for-bit equality depends on beside this machine, as JSON values.

    Raises:
        RunError: it could not be written. Nothing is left of it, and earlier ones are as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target, temporary = folder_of(folder, step), folder / f"{TEMPORARY}{step:08d}"
    try:
        _check_space(folder, checkpoint)
        _remove(temporary)
        temporary.mkdir()
        tensors = {POLICY: checkpoint.policy, OPTIMIZER: checkpoint.optimizer}
        tensors |= {REFERENCE: checkpoint.reference} if checkpoint.reference else {}
        for name, content in tensors.items():
            save_file(_plain(content), temporary / name)
        (temporary / STATE).write_text(json.dumps(checkpoint.state, indent=1), encoding="utf-8")
        files = {name: _seal(temporary / name) for name in (*tensors, STATE)}
        here = numeric_environment() | dict(setting or {})
        manifest = {"format": FORMAT, "step": step, "files": files, "environment": here}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        flush(temporary / MANIFEST)
        flush(temporary)
        if target.exists():  # the same step again, with newer counters or in place of a damaged one
            target.rename(folder / f"{REPLACED}{target.name}")
        temporary.rename(target)
        flush(folder)
        _remove(folder / f"{REPLACED}{target.name}")
    except (OSError, SafetensorError) as error:
        _remove(temporary)
        newest = steps_in(folder)
        kept = f"the checkpoint of step {newest[-1]} is untouched" if newest else "there is no earlier one"
        raise RunError(
            f"{target}: the checkpoint could not be written ({error}); {kept}. Free space there, or lower "
            "training.keep_checkpoints, then go on with --resume",
            code="not_writable",
        ) from error
    return target


def check_space(folder: Path, num_bytes: int) -> None:
    """Refuse to begin what the disk cannot hold.

    Raises:
        OSError: less than 1.2 × `num_bytes` is free.
    """
    free = shutil.disk_usage(folder).free
    if free < 1.2 * num_bytes:
        raise OSError(f"{free / 1e9:.2f} GB are free and {1.2 * num_bytes / 1e9:.2f} GB needed")


def _check_space(folder: Path, checkpoint: Checkpoint) -> None:
    tensors = [*checkpoint.policy.values(), *checkpoint.optimizer.values(), *checkpoint.reference.values()]
    check_space(folder, sum(t.numel() * t.element_size() for t in tensors))


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def _seal(path: Path) -> dict[str, Any]:
    """Flush a file to the disk; its size and hash."""
    flush(path)
    return {"size": path.stat().st_size, "sha256": _sha256(path)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Have the system write a file, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None where its manifest verifies."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        files = {name: (entry["size"], entry["sha256"]) for name, entry in manifest["files"].items()}
        if manifest["format"] != FORMAT:
            return f"its format is {manifest['format']}, this version reads {FORMAT}"
        if missing := {POLICY, OPTIMIZER, STATE} - set(files):
            return f"its manifest does not name {', '.join(sorted(missing))}"
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} cannot be read ({error})"
    for name, (size, sha256) in files.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if (path / name).stat().st_size != size:
            return f"{name} has {(path / name).stat().st_size} bytes, its manifest says {size}"
        if _sha256(path / name) != sha256:
            return f"{name} is not what its manifest says (sha256)"
    return None


def newest_valid(folder: Path, note: Callable[[str], None]) -> Path | None:
    """The newest checkpoint whose manifest verifies; None where there is no checkpoint at all.

    Args:
        folder: Where checkpoints lie.
        note: Told what is skipped, and why.

    Raises:
        RunError: there are checkpoints and every one is damaged: starting afresh in silence would be worse.
    """
    for leftover in folder.glob(f"{TEMPORARY}*"):
        _remove(leftover)
    for leftover in folder.glob(f"{REPLACED}*"):
        target = folder / leftover.name.removeprefix(REPLACED)
        if target.exists():
            _remove(leftover)
        else:  # killed between two renames
            leftover.rename(target)
    found = [folder_of(folder, step) for step in reversed(steps_in(folder))]
    for path in found:
        reason = damage(path)
        if reason is None:
            return path
        note(f"{path} is skipped: {reason}")
    if found:
        raise RunError(
            f"{folder}: all {len(found)} checkpoints are damaged; start again with --overwrite", code="damaged"
        )
    return None


def changes(path: Path, setting: Mapping[str, Any] | None = None) -> list[str]:
    """Where this machine and setting are not those that wrote a checkpoint: resuming is then equal to rounding only."""
    then = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["environment"]
    now = numeric_environment() | dict(setting or {})
    return [f"{k} {then.get(k)} → {now.get(k)}" for k in sorted({*then, *now}) if then.get(k) != now.get(k)]


def load(path: Path) -> Checkpoint:
    """Read a checkpoint that verifies."""
    return Checkpoint(
        policy=load_file(path / POLICY),
        optimizer=load_file(path / OPTIMIZER),
        state=json.loads((path / STATE).read_text(encoding="utf-8")),
        reference=load_file(path / REFERENCE) if (path / REFERENCE).exists() else {},
    )


def rotate(folder: Path, step: int, keep: int, protect: Collection[int]) -> None:
    """After the commit of `step`: keep it, the `keep` − 1 before it and those of protected steps, remove the others.

    Steps after it were found damaged when this run was resumed from before them.
    """
    kept = {*[s for s in steps_in(folder) if s <= step][-keep:], *protect}
    for other in steps_in(folder):
        if other not in kept:
            _remove(folder_of(folder, other))
