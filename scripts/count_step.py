"""Count the functions and files of tiltlm that one optimiser step of DPO runs through.

    python scripts/count_step.py

It trains the bundled tiny model on six pairs and records, during the second step, every function of the package that
is entered. Lambdas and comprehensions do not count.
"""

import json
import sys
import tempfile
from pathlib import Path
from types import CodeType, FrameType

import tiltlm
from tiltlm.training.loop import Trainer
from tiltlm.worlds import TextWorld

PACKAGE = str(Path(tiltlm.__file__).parent)
WATCHED_STEP = 1
"""The second one: what happens only once is over."""


def main() -> None:
    """Train, and print what the watched step entered."""
    entered: set[CodeType] = set()

    def watch(frame: FrameType, event: str, argument: object) -> None:
        del argument
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE) and not code.co_name.startswith("<"):
            entered.add(code)

    step = Trainer.train_step

    def watched(trainer: Trainer) -> None:
        if trainer.state.step != WATCHED_STEP:
            return step(trainer)
        sys.setprofile(watch)
        try:
            return step(trainer)
        finally:
            sys.setprofile(None)

    Trainer.train_step = watched  # type: ignore[method-assign]
    world = TextWorld()
    pairs = [{"prompt": p, "chosen": " Good day!", "rejected": " No."} for p in world.prompts("train")[:6]]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "pairs.jsonl"
        data.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
        tiltlm.train(
            model=str(world.model_path()), data=str(data), objective="dpo", output=f"{folder}/run",
            **{"training.batch_size": 3, "reference.cache": False},
        )  # fmt: skip
    files: dict[str, list[str]] = {}
    for code in entered:
        name = getattr(code, "co_qualname", code.co_name)
        files.setdefault(str(Path(code.co_filename).relative_to(PACKAGE)), []).append(name)
    for file in sorted(files):
        print(f"{file}: {', '.join(sorted(files[file]))}")
    print(f"{len(entered)} functions in {len(files)} files")


if __name__ == "__main__":
    main()
