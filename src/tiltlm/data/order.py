"""Shuffle examples as a pure function of (data fingerprint, seed, epoch), so that resuming needs only one counter."""

import hashlib
from collections import deque

import numpy as np
from numpy.typing import NDArray


def epoch_order(num_examples: int, fingerprint: str, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return a permutation of 0 … num_examples − 1.

    It sorts raw Philox output, because that is the same in all numpy versions. The shuffles of numpy's Generator are
    not.
    """
    digest = hashlib.sha256(f"{fingerprint}:{seed}:{epoch}".encode()).digest()
    keys = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(num_examples)
    return np.argsort(keys, kind="stable")


def grouped_order(
    prompts: NDArray[np.int64], batch_size: int, fingerprint: str, seed: int, epoch: int
) -> NDArray[np.int64]:
    """Return a permutation that puts rows with the same prompt together, and into the same step if they fit.

    Prompts are shuffled. Each step starts with the next prompt. Then it repeatedly takes the next prompt whose rows all
    fit into the rest of the step. If none fits, the next prompt is split and continues in the following step. So steps
    are always full, and there are as many as without grouping.

    Args:
        prompts: For each row the number of its prompt, from 0 (`tiltlm.data.cache.fingerprints.prompt_numbers`).
        batch_size: Rows of a step.
        fingerprint: Fingerprint of the data; with `seed` and `epoch` it decides the order of prompts.
        seed: Another seed gives another order.
        epoch: Each epoch has another order.
    """
    sizes = np.bincount(prompts)
    shuffled = epoch_order(len(sizes), fingerprint, seed, epoch)
    # Number of rows → prompts with this many rows that are not taken yet, as positions in the shuffled order.
    waiting: dict[int, deque[int]] = {}
    for position, size in enumerate(sizes[shuffled].tolist()):
        waiting.setdefault(size, deque()).append(position)
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
    position_of_prompt = np.empty_like(shuffled)
    position_of_prompt[shuffled[taken]] = np.arange(len(taken))
    return np.argsort(position_of_prompt[prompts], kind="stable")
