"""Digest of named tensors: equal digests mean equal names, types, shapes and bytes."""

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from tiltlm.distributed.wrapping import full_tensor


def tensors_digest(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    """Return the BLAKE2b-128 digest of named tensors and facts, in hexadecimal.

    A sharded tensor counts as its whole, which is gathered alone. All processes must call this together then.
    """
    if any(isinstance(tensor, DTensor) for tensor in tensors.values()):
        contents = {name: _tensor_digest(full_tensor(tensor)) for name, tensor in tensors.items()}
    else:
        with ThreadPoolExecutor() as pool:  # hashing releases the interpreter lock
            contents = dict(zip(tensors, pool.map(_tensor_digest, tensors.values()), strict=True))
    content = json.dumps([contents, facts], sort_keys=True, default=str)
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


def _tensor_digest(tensor: Tensor) -> str:
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    kind = f"{tensor.dtype}{tuple(tensor.shape)}".encode()
    return hashlib.blake2b(kind + hashlib.blake2b(content.data).digest(), digest_size=16).hexdigest()
