"""The order of examples: a pure function of (data fingerprint, seed, epoch), so that resuming needs one counter."""

import hashlib

import numpy as np
from numpy.typing import NDArray


def epoch_order(num_examples: int, fingerprint: str, seed: int, epoch: int) -> NDArray[np.int64]:
    """A permutation of 0 … num_examples − 1.

    Sorts raw Philox output: that stream is fixed across numpy versions, the shuffles of numpy's Generator are not.
    """
    digest = hashlib.sha256(f"{fingerprint}:{seed}:{epoch}".encode()).digest()
    keys = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(num_examples)
    return np.argsort(keys, kind="stable")
