"""A small real run that several tests examine, on pairs of the text world and the bundled model."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import tiltlm
from tiltlm.worlds import TextWorld


@pytest.fixture(scope="session", autouse=True)
def own_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Use a reference store of the tests, not the user's own."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TILTLM_STORE", str(folder))
        yield folder


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a cache of judgements, rows and models of the test's own."""
    monkeypatch.setenv("TILTLM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Return a file with the held-out prompts of the text world."""
    return write_rows(tmp_path / "prompts.jsonl", [{"prompt": text} for text in TextWorld().prompts("heldout")])


@pytest.fixture(scope="session")
def model() -> str:
    """Return the folder of the bundled tiny model."""
    return str(TextWorld().model_path())


def pairs(num: int, seed: int = 0) -> list[dict[str, str]]:
    """Return rows of the text world: two replies to one request, the kinder one chosen."""
    world, rows = TextWorld(), []
    replies = world.corpus(seed, 40 * num)
    by_prompt: dict[str, set[str]] = {}
    for row in replies:
        by_prompt.setdefault(row["prompt"], set()).add(row["completion"])
    for prompt, texts in by_prompt.items():
        ranked = sorted(texts, key=lambda text: (world.reward(prompt, text), text))
        if world.reward(prompt, ranked[-1]) > world.reward(prompt, ranked[0]):
            rows.append({"prompt": prompt, "chosen": ranked[-1], "rejected": ranked[0]})
    return rows[:num]


def write_rows(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def some_pairs() -> list[dict[str, str]]:
    """Return rows as they are written to a file."""
    return pairs(48)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "pairs.jsonl", pairs(64))


@pytest.fixture(scope="session")
def unpaired(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        {"prompt": r["prompt"], "completion": r[side], "label": side == "chosen"}
        for r in pairs(48)
        for side in ("chosen", "rejected")
    ]
    return write_rows(tmp_path_factory.mktemp("data") / "unpaired.jsonl", rows)


FAST = {"evaluation.num_prompts": 2, "evaluation.num_samples": 2, "evaluation.max_new_tokens": 8}


@pytest.fixture(scope="session")
def train(model: str) -> Callable:
    """Return `tiltlm.train` with little sampling, where a run samples."""

    def run(output: Path, **settings):
        holds_out = settings.get("eval_fraction") != 0
        samples = holds_out and settings["objective"] != "reward_model"
        return tiltlm.train(**{"model": model, "output": output, **(FAST if samples else {}), **settings})

    return run


@pytest.fixture(scope="session")
def trained(train, data, tmp_path_factory):
    """Return a run of DPO on the pairs: four epochs, 25 % of the prompts held out."""
    output = tmp_path_factory.mktemp("runs") / "dpo"
    return train(
        output, data=data, objective="dpo", beta=0.5, learning_rate=1e-3, num_epochs=4, batch_size=8,
        eval_fraction=0.25, save_every=6, eval_every=6,
    )  # fmt: skip
