"""Many architectures, each in a process of its own and with a time limit: a crash or a hang is a line of the record.

    python tests/architectures/walk.py [MODEL_TYPE ...]      all of transformers', or these; a line of JSON for each

Processes are forked from one that has imported torch and transformers already, so that each costs its own work only.
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
    """Every configuration that the installed transformers makes a causal language model of."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def walk(model_types: Sequence[str], workers: int = 2, limit: float = LIMIT) -> Iterator[dict[str, Any]]:
    """Records, in the order in which they come."""
    context = forked_from_imported()
    with ThreadPoolExecutor(workers) as pool:
        tasks = [pool.submit(alone, context, model_type, limit) for model_type in model_types]
        for task in as_completed(tasks):
            yield task.result()


def forked_from_imported() -> Any:
    """Where processes come from. Once its server runs, all of this process's come from the same."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tiltlm.logprobs", "transformers.models.auto.modeling_auto"])
    return context


def alone(
    context: Any, model_type: str, limit: float, examine: Callable[[str, Connection], None] | None = None
) -> dict[str, Any]:
    """The record of one architecture, examined in a process of its own (by `report`, if nothing else is given)."""
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=examine or report, args=(model_type, there))
    process.start()
    there.close()
    record: dict[str, Any]
    try:
        record = here.recv() if here.poll(limit) else lost(model_type, f"not done after {limit:g} s")
    except EOFError:
        process.join()
        record = lost(model_type, f"its process ended with exit code {process.exitcode}")
    process.kill()
    process.join()
    return record


def lost(model_type: str, reason: str) -> dict[str, Any]:
    return {"model_type": model_type, "route": "wrong", "reason": reason}


def report(model_type: str, to: Connection) -> None:
    """In the other process: examine, and send what was found."""
    import verify

    verify.quiet()
    to.send(asdict(verify.examine(model_type)))


def main() -> None:
    for found in walk(sys.argv[1:] or all_model_types()):
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
