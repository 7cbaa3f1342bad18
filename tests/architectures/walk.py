"""Check of many architectures, each in its own process with a time limit: a crash or a timeout is recorded too.

    python tests/architectures/walk.py [MODEL_TYPE ...]      these, or all of transformers; a line of JSON for each

Processes are forked from one that has imported torch and transformers already, so that none imports them again.
"""

import json
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any

LIMIT = 90
"""Seconds for one architecture."""


def all_model_types() -> list[str]:
    """Return the type of every configuration that has a causal language model in transformers, and our variants."""
    from tiny import VARIANTS
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return [*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *VARIANTS]


def walk(model_types: Sequence[str], workers: int = 2, limit: float = LIMIT) -> Iterator[dict[str, Any]]:
    """Yield records, in the order in which they are finished."""
    context = forked_from_imported()
    with ThreadPoolExecutor(workers) as pool:
        tasks = [pool.submit(in_own_process, context, model_type, limit) for model_type in model_types]
        for task in as_completed(tasks):
            yield task.result()


def forked_from_imported() -> Any:
    """Return the multiprocessing context: processes are forked from a server that has imported the libraries."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tiltlm.logprobs.selfcheck", "transformers.models.auto.modeling_auto"])
    return context


def in_own_process(
    context: Any, model_type: str, limit: float, examine: Callable[[str, Connection], None] | None = None
) -> dict[str, Any]:
    """Return the record of one architecture, examined by `examine` (None: `report`) in its own process."""
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=examine or report, args=(model_type, sender))
    process.start()
    sender.close()
    record: dict[str, Any]
    try:
        record = receiver.recv() if receiver.poll(limit) else lost(model_type, f"not done after {limit:g} s")
    except EOFError:
        process.join()
        record = lost(model_type, f"its process ended with exit code {process.exitcode}")
    process.kill()
    process.join()
    return record


def lost(model_type: str, reason: str) -> dict[str, Any]:
    """Return the record of an architecture whose process gave no result."""
    return {"model_type": model_type, "route": "wrong", "reason": reason}


def report(model_type: str, sender: Connection) -> None:
    """Examine an architecture and send its record; it runs in the other process."""
    import verify

    verify.quiet()
    sender.send(asdict(verify.examine(model_type)))


def main() -> None:
    """Print a line of JSON for each architecture."""
    for found in walk(sys.argv[1:] or all_model_types()):
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
