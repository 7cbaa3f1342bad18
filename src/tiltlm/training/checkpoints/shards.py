"""Sharded tensors on the disk: each process writes its own parts, and reads those it needs, with torch's own machinery.

The files are safetensors that say which part of each tensor they hold (torch's `HuggingFaceStorageWriter`). Reading
assembles any other partition: that of more or fewer processes, or whole tensors.
"""

import math
import warnings
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from tiltlm.core.errors import RunError
from tiltlm.distributed.ranks import Ranks
from tiltlm.distributed.wrapping import laid_out_as

FILE_BYTES = 2**30
"""A process begins another file after this many bytes: torch holds a file in memory a second time while it writes."""


class Shards(Mapping[str, Tensor]):
    """The tensors of a folder that `write_shards` wrote. An item is read from the disk, whole, each time."""

    def __init__(self, folder: Path, ranks: Ranks) -> None:
        """Read nothing yet.

        Args:
            folder: Holds the files of all processes.
            ranks: The processes that read it together.
        """
        self.folder = folder
        self.ranks = ranks

    @cached_property
    def found(self) -> dict[str, TensorStorageMetadata]:
        """Shapes, dtypes and parts by name, from the heads of all files."""
        if not self.folder.is_dir():  # a part without tensors has no files
            return {}
        read = HuggingFaceStorageReader(str(self.folder)).read_metadata().state_dict_metadata
        return {name: tensor for name, tensor in read.items() if isinstance(tensor, TensorStorageMetadata)}

    def __getitem__(self, name: str) -> Tensor:
        tensor = torch.empty(self.found[name].size, dtype=self.found[name].properties.dtype)
        _load(self.folder, {name: tensor}, Ranks())
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """Return the shapes of whole tensors by name, without reading those that are on the disk."""
    if isinstance(tensors, Shards):
        return {name: list(found.size) for name, found in tensors.found.items()}
    return {name: list(tensor.shape) for name, tensor in tensors.items()}


@torch.no_grad()
def read_into(tensors: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
    """Copy tensors into targets of the same names and shapes, which may be sharded in another way or not at all.

    Args:
        tensors: Shards on the disk, of which each process reads the parts that it needs; or tensors in memory or in a
            mapped file, whole or sharded as the targets are.
        targets: Some or all of the names. All processes call this together with equal names.
    """
    if isinstance(tensors, Shards):
        _load(tensors.folder, targets, tensors.ranks)
        return
    for name, target in targets.items():
        tensor = tensors[name]
        target.copy_(tensor if isinstance(tensor, DTensor) else laid_out_as(tensor, target))


def _load(folder: Path, targets: Mapping[str, Tensor], ranks: Ranks) -> None:
    if not targets:
        return
    alone = ranks.size == 1
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # one process may read all
            load(
                dict(targets),
                storage_reader=HuggingFaceStorageReader(str(folder)),
                process_group=ranks.group,
                no_dist=alone,
            )
    except CheckpointException as error:
        raise RunError(
            f"{folder}: the shards could not be read ({first_failure(error)})", code="not_readable"
        ) from error


def write_shards(folder: Path, tensors: Mapping[str, Tensor], ranks: Ranks) -> None:
    """Write the parts that this process holds, and have them on the disk. All processes call this together.

    What several processes hold alike, one of them writes.

    Args:
        folder: On a file system that all processes see. It need not exist yet.
        tensors: Sharded and whole ones, with the same names in every process.
        ranks: The processes.

    Raises:
        OSError: a process could not write; the message names its rank.
    """
    if not tensors:
        return
    writer = HuggingFaceStorageWriter(
        str(folder), save_distributed=True, fqn_to_index_mapping=_files(tensors, ranks.size)
    )
    try:
        save(dict(tensors), storage_writer=writer, process_group=ranks.group)
    except CheckpointException as error:
        raise OSError(first_failure(error)) from error


def files_of(folder: Path, rank: int) -> list[Path]:
    """Return the files that a process has written into a folder of shards."""
    return sorted(folder.glob(f"shard-{rank + 1:05d}-*.safetensors"))


def _files(tensors: Mapping[str, Tensor], num_ranks: int) -> dict[str, int]:
    """Return the number of the file, from 1, that each tensor goes to: in every process about `FILE_BYTES` a file."""
    places, number, filled = {}, 1, 0
    for name, tensor in tensors.items():
        if filled >= FILE_BYTES:
            number, filled = number + 1, 0
        places[name] = number
        filled += math.ceil(tensor.numel() * tensor.element_size() / num_ranks)
    return places


def first_failure(error: CheckpointException) -> str:
    """Return the rank and the message of the first process that failed, without the traces of all."""
    rank, (cause, _) = min(error.failures.items())
    return f"rank {rank}: {cause}"
