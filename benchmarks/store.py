"""The reference store at a million entries: opening, look-ups, writing, merging, memory.

    python benchmarks/store.py [--entries 1000000] [--shards 1 10 100] [--json store.json]

Entries are synthetic pairs of the lengths of HH-RLHF: contexts of 113 tokens on average, two responses of 44. Writing,
reading and merging are processes of their own, on one thread, with the files in the page cache. Look-ups are those of
training: pairs in random order, in batches of 16 (a step) and of 4096 (the check before the first step). Their rates
are by processor time, which a neighbour on the machine distorts less; all others are by the clock.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from tiltlm.core.example import TokenIds
from tiltlm.reference import ReferenceStore
from tiltlm.reference.store import maintenance
from tiltlm.reference.store.shard import Entry

Sequences = list[tuple[TokenIds, TokenIds]]
NUM_LOOKED_UP = 100_000


def opened(folder: Path) -> ReferenceStore:
    return ReferenceStore(folder, "weights", "float32")


class World:
    """Sequence n of many, without keeping any: windows on one row of random tokens."""

    def __init__(self, num_entries: int) -> None:
        rng = np.random.default_rng(0)
        self._tokens = rng.integers(0, 16_000, 2 * num_entries + 1000).astype(np.int32)
        self._context_lengths = rng.integers(13, 214, num_entries // 2)
        self._lengths = rng.integers(4, 85, num_entries)

    def sequence(self, n: int) -> tuple[TokenIds, TokenIds]:
        pair = n // 2
        start = len(self._lengths) + n
        context = self._tokens[pair : pair + self._context_lengths[pair]]
        return context.copy(), self._tokens[start : start + self._lengths[n]].copy()

    def entries(self, first: int, last: int) -> Iterator[Entry]:
        for n in range(first, last):
            context, response = self.sequence(n)
            yield context, response, -response.astype(np.float32)


def peak_gigabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def write(folder: Path, num_entries: int, num_shards: int) -> dict[str, float]:
    """Put everything, one shard a call."""
    maintenance.MANY = num_shards  # merging is measured apart
    world, kept = World(num_entries), opened(folder)
    bounds = np.linspace(0, num_entries, num_shards + 1).astype(int).tolist()
    seconds = 0.0
    for first, last in pairwise(bounds):
        entries = list(world.entries(first, last))
        start = time.perf_counter()
        kept.put(entries)
        seconds += time.perf_counter() - start
    size = sum(path.stat().st_size for path in folder.rglob("*.arrow"))
    return {"puts_per_second": num_entries / seconds, "bytes_per_entry": size / num_entries}


def read(folder: Path, num_entries: int) -> dict[str, float]:
    """Open, and look up what is there, what is the beginning of something, and what is not there."""
    world = World(num_entries)
    start = time.perf_counter()
    kept = opened(folder)
    assert kept.get([world.sequence(0)])[0] is not None
    results = {"open_and_first_look_up_seconds": time.perf_counter() - start}
    order = np.random.default_rng(1).permutation(num_entries // 2).tolist()
    kinds: dict[str, Callable[[TokenIds], TokenIds]] = {
        "exact": lambda response: response,
        "prefix": lambda response: response[: len(response) // 2],
        "missing": lambda response: np.append(response, np.int32(0)),
    }
    for kind, changed in kinds.items():
        for batch in (16, 4096):
            seconds, num_done = 0.0, 0
            for first in range(0, min(NUM_LOOKED_UP, num_entries) // 2, batch // 2):
                pairs = order[first : first + batch // 2]
                sequences = [world.sequence(2 * pair + side) for pair in pairs for side in (0, 1)]
                asked = [(context, changed(response)) for context, response in sequences]
                start = time.process_time()
                found = kept.get(asked)
                seconds += time.process_time() - start
                num_done += len(asked)
                for (_, response), logps in zip(asked, found, strict=True):
                    assert (logps is None) == (kind == "missing")
                    assert logps is None or np.array_equal(logps, -response)
            results[f"{kind}_per_second_in_batches_of_{batch}"] = num_done / seconds
    anonymous = next(line for line in Path("/proc/self/status").read_text().splitlines() if "RssAnon" in line)
    return {**results, "peak_gigabytes": peak_gigabytes(), "own_gigabytes": int(anonymous.split()[1]) / 1e6}


def merge(folder: Path, num_entries: int) -> dict[str, float]:
    """One more put, which merges where the files are many."""
    before = {path: path.stat().st_size for path in folder.rglob("*.arrow")}
    kept = opened(folder)
    start = time.perf_counter()
    kept.put(World(2).entries(0, 2))
    seconds = time.perf_counter() - start
    after = set(folder.rglob("*.arrow"))
    share = sum(size for path, size in before.items() if path not in after) / sum(before.values())
    if not share:
        return {}
    return {
        "merged_per_second": share * num_entries / seconds,
        "files_after_merging": len(after),
        "peak_gigabytes_merging": peak_gigabytes(),
    }


def alone(function: Callable[..., dict[str, float]], *args: Any) -> dict[str, float]:
    """Run in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    results = []
    for num_shards in args.shards:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            found: dict[str, float] = {"entries": args.entries, "shards": num_shards}
            found |= alone(write, folder, args.entries, num_shards)
            found |= alone(read, folder, args.entries)
            found |= alone(merge, folder, args.entries)
        results.append(found)
        for key, value in found.items():
            print(f"{key:42} {value:12,.2f}" if value < 100 else f"{key:42} {value:12,.0f}")
        print(flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
