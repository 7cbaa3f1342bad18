"""The order of examples: a pure function of (data fingerprint, seed, epoch), so that resuming needs one counter."""

import hashlib
from collections import deque

import numpy as np
from numpy.typing import NDArray


def epoch_order(num_examples: int, fingerprint: str, seed: int, epoch: int) -> NDArray[np.int64]:
    """A permutation of 0 … num_examples − 1.

    Sorts raw Philox output: that stream is fixed across numpy versions, the shuffles of numpy's Generator are not.
    """
    digest = hashlib.sha256(f"{fingerprint}:{seed}:{epoch}".encode()).digest()
    keys = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(num_examples)
    return np.argsort(keys, kind="stable")


def grouped_order(
    prompts: NDArray[np.int64], batch_size: int, fingerprint: str, seed: int, epoch: int
) -> NDArray[np.int64]:
    """A permutation in which the rows of a prompt are neighbours, and in one step of `batch_size` rows where they fit.

    Prompts are shuffled. Every step begins with the next one; then comes, again and again, the next one whose rows all
    fit into what is left of the step. Where none does, the next one is cut and goes on in the following step: steps are
    always full, and their number is what it is without grouping.

    Args:
        prompts: for each row the number of its prompt, from 0 (`tiltlm.data.cache.fingerprints.prompt_numbers`).
        batch_size: rows of a step.
        fingerprint: of the data; with `seed` and `epoch` it decides how prompts are shuffled.
        seed: chooses another order.
        epoch: each has an order of its own.
    """
    sizes = np.bincount(prompts)
    shuffled = epoch_order(len(sizes), fingerprint, seed, epoch)
    waiting: dict[int, deque[int]] = {}  # number of rows → prompts of so many, as places in the shuffled order
    for place, size in enumerate(sizes[shuffled].tolist()):
        waiting.setdefault(size, deque()).append(place)
    taken: list[int] = []
    filled = 0
    while waiting:
        room = batch_size - filled
        fitting = [size for size in waiting if size <= room] if filled else []
        size = min(fitting or waiting, key=lambda size: waiting[size][0])
        taken.append(waiting[size].popleft())
        filled = (filled + size) % batch_size
        if not waiting[size]:
            del waiting[size]
    turn = np.empty_like(shuffled)
    turn[shuffled[taken]] = np.arange(len(taken))
    return np.argsort(turn[prompts], kind="stable")
