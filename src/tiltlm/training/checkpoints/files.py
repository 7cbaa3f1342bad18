"""Checkpoints that are complete or absent: weights, optimiser state and counters, as safetensors and JSON.

Files are written to a temporary folder, synchronised to the disk, listed in a manifest of sizes and hashes, and the
folder is renamed: a kill at any moment leaves the last checkpoint intact. The hash of the manifest is in a file of its
own. Tensors with NaN or infinities are refused, so the newest checkpoint is always one that a run can continue from.
Nothing is pickled, so that a checkpoint from someone else cannot run code.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tiltlm.core.errors import RunError
from tiltlm.core.finite import not_finite
from tiltlm.storage.files import atomic_folder, sync
from tiltlm.storage.versions import python_and_packages

FORMAT = 3
POLICY, OPTIMIZER, STATE, MANIFEST = "policy.safetensors", "optimizer.safetensors", "state.json", "manifest.json"
MANIFEST_HASH = "manifest.sha256"
"""The hash of the manifest, in the form that the program `sha256sum` reads."""
REFERENCE = "reference.safetensors"
"""Present only if the reference moves."""
ASIDE = "ruined-"
"""Prefix of a checkpoint whose weights give no finite loss. It is kept for a look at it and never continued from."""
REPLACED = ".replaced-"
"""Prefix of a checkpoint while another one of the same step takes its place."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """All that resuming needs."""

    policy: dict[str, Tensor]
    """Trainable weights by parameter name."""
    optimizer: dict[str, Tensor]
    """Optimiser state as `parameter.moment`."""
    state: dict[str, Any]
    """Counters and the identity of the run, as JSON values."""
    reference: dict[str, Tensor] = field(default_factory=dict)
    """Weights of a reference that moves, by parameter name; empty for any other."""


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


def commit(folder: Path, step: int, checkpoint: Checkpoint, setting: Mapping[str, Any] | None = None) -> Path:
    """Write the checkpoint of a step and return its folder. When this returns, the checkpoint survives a power cut.

    Args:
        folder: The folder of all checkpoints.
        step: Steps done.
        checkpoint: What to write.
        setting: What bit-for-bit equality depends on besides this machine, as JSON values.

    Raises:
        RunError: it could not be written, or holds NaN or infinities. Nothing is left of it, and earlier checkpoints
            are unchanged.
    """
    _refuse_not_finite(step, checkpoint)
    target = folder_of(folder, step)
    replaced = folder / f"{REPLACED}{target.name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _check_space(folder, checkpoint)
        with atomic_folder(target) as temporary:
            _write(temporary, step, checkpoint, setting or {})
            if target.exists():  # the same step again, with newer counters or in place of a damaged one
                target.rename(replaced)
        sync(folder)
        _remove(replaced)
    except (OSError, SafetensorError) as error:
        newest = steps_in(folder)
        kept = f"the checkpoint of step {newest[-1]} is unchanged" if newest else "there is no earlier one"
        raise RunError(
            f"{target}: the checkpoint could not be written ({error}); {kept}. Free space there, or lower "
            "training.keep_checkpoints, then continue with --resume",
            code="not_writable",
        ) from error
    return target


def _refuse_not_finite(step: int, checkpoint: Checkpoint) -> None:
    parts = {"weights": checkpoint.policy, "optimiser state": checkpoint.optimizer, "reference": checkpoint.reference}
    for part, tensors in parts.items():
        if names := not_finite(tensors):
            raise RunError(
                f"no checkpoint of step {step} is written: NaN or infinities in {len(names)} tensors of the {part}, "
                f"first in {names[0]}. Earlier checkpoints are unchanged. Start a run in another folder "
                "(output=NEW_FOLDER) with a smaller training.learning_rate or training.max_grad_norm",
                code="checkpoint_not_finite",
                key="training.learning_rate",
            )


def _write(folder: Path, step: int, checkpoint: Checkpoint, setting: Mapping[str, Any]) -> None:
    """Write the files of a checkpoint into a new folder and have them on the disk."""
    tensors = {POLICY: checkpoint.policy, OPTIMIZER: checkpoint.optimizer}
    tensors |= {REFERENCE: checkpoint.reference} if checkpoint.reference else {}
    for name, content in tensors.items():
        save_file(_plain(content), folder / name)
    (folder / STATE).write_text(json.dumps(checkpoint.state, indent=1), encoding="utf-8")
    files = {name: _seal(folder / name) for name in (*tensors, STATE)}
    manifest = {"format": FORMAT, "step": step, "files": files, "environment": numeric_environment() | dict(setting)}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    (folder / MANIFEST_HASH).write_text(f"{_sha256(folder / MANIFEST)}  {MANIFEST}\n", encoding="utf-8")
    sync(folder / MANIFEST)
    sync(folder / MANIFEST_HASH)
    sync(folder)


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
        raise OSError(f"{free / 1e9:.2f} GB are free and {1.2 * num_bytes / 1e9:.2f} GB are needed")


def _check_space(folder: Path, checkpoint: Checkpoint) -> None:
    tensors = [*checkpoint.policy.values(), *checkpoint.optimizer.values(), *checkpoint.reference.values()]
    check_space(folder, sum(t.numel() * t.element_size() for t in tensors))


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def _seal(path: Path) -> dict[str, Any]:
    """Have a file on the disk, and return its size and hash."""
    sync(path)
    return {"size": path.stat().st_size, "sha256": _sha256(path)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def damage(path: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None if all files are as its manifest says."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        files = {name: (entry["size"], entry["sha256"]) for name, entry in manifest["files"].items()}
        if manifest["format"] != FORMAT:
            return f"its format is {manifest['format']} and this version reads {FORMAT}"
        if (path / MANIFEST_HASH).read_text(encoding="utf-8").split() != [_sha256(path / MANIFEST), MANIFEST]:
            return f"the content of {MANIFEST} has changed (its sha256 is not the one in {MANIFEST_HASH})"
        if missing := {POLICY, OPTIMIZER, STATE} - set(files):
            return f"its manifest does not name {', '.join(sorted(missing))}"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} cannot be read ({error})"
    for name, (size, sha256) in files.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if (path / name).stat().st_size != size:
            return f"{name} has {(path / name).stat().st_size} bytes and its manifest says {size}"
        if _sha256(path / name) != sha256:
            return f"the content of {name} has changed (its sha256 is not the one in the manifest)"
    return None


def newest_valid(folder: Path, note: Callable[[str], None]) -> Path | None:
    """Return the newest checkpoint that is not damaged; None if there is no checkpoint at all.

    What an interrupted `commit` left is cleaned up first.

    Args:
        folder: The folder of all checkpoints.
        note: Called with each checkpoint that is skipped, and the reason.

    Raises:
        RunError: there are checkpoints and all are damaged. Starting again without a word would be worse.
    """
    for leftover in folder.glob(".step-*.tmp"):
        _remove(leftover)
    for leftover in folder.glob(f"{REPLACED}*"):
        target = folder / leftover.name.removeprefix(REPLACED)
        if target.exists():
            _remove(leftover)
        else:  # the process was killed between two renames
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


def load(path: Path) -> Checkpoint:
    """Read a checkpoint that is not damaged."""
    return Checkpoint(
        policy=load_file(path / POLICY),
        optimizer=load_file(path / OPTIMIZER),
        state=json.loads((path / STATE).read_text(encoding="utf-8")),
        reference=load_file(path / REFERENCE) if (path / REFERENCE).exists() else {},
    )


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
