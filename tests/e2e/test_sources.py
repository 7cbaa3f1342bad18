"""Several sources in one run: metrics, measurements and the report by source, and the account of the data."""

import json
import math

import pytest

import tiltlm
from tiltlm.report import read_run

pytestmark = pytest.mark.usefixtures("blank_figures", "own_cache")
OPTIONS = {"objective": "dpo", "beta": 0.5, "learning_rate": 1e-3, "batch_size": 8, "max_steps": 4}


@pytest.fixture
def mixed(some_pairs):
    """Return pairs of two sources; those of the second are labelled the wrong way."""
    wrong = [{"prompt": r["prompt"], "chosen": r["rejected"], "rejected": r["chosen"]} for r in some_pairs[24:]]
    return [{**row, "source": "right"} for row in some_pairs[:24]] + [{**row, "source": "wrong"} for row in wrong]


def test_sources_are_measured_apart(train, mixed, tmp_path):
    run = train(tmp_path / "run", data=mixed, eval_fraction=0.3, **OPTIONS)
    records = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    steps = [record for record in records if "loss" in record]
    for record in steps:
        parts = [name for name in ("right", "wrong") if f"sources/{name}/loss" in record]
        numbers = [record[f"sources/{name}/examples"] for name in parts]
        assert sum(numbers) == 8
        losses = [record[f"sources/{name}/loss"] * n for name, n in zip(parts, numbers, strict=True)]
        assert sum(losses) / 8 == pytest.approx(record["loss"], rel=1e-5)
    last = [record for record in records if "eval_loss" in record][-1]
    assert last["eval_sources/right/rewards/margins"] > last["eval_sources/wrong/rewards/margins"]
    assert math.isfinite(last["eval_sources/wrong/rewards/accuracies"])
    held_out = read_run(run.path).held_out
    assert held_out.by_source.keys() == {"right", "wrong"}
    assert sum(source.num_examples for source in held_out.by_source.values()) == held_out.num_examples
    better, worse = (held_out.by_source[name].margin.after.estimate for name in ("right", "wrong"))
    assert better == pytest.approx(last["eval_sources/right/rewards/margins"], abs=1e-4)
    assert better > worse
    page = (run.path / "report.html").read_text()
    assert 'data-row="source wrong"' in page
    account = json.loads((run.path / "data.json").read_text())
    assert set(account["sources"]) == {"right", "wrong"}
    assert sum(account["sources"].values()) == account["train"]


def test_score_has_metrics_by_source(model, mixed):
    options = {"model": model, "reference": model, "objective": "dpo", "progress": False}
    scores = tiltlm.score(data=mixed, **options)
    assert scores["metrics"]["sources/right/examples"] == 24
    alone = tiltlm.score(data=mixed[24:], **options)
    assert scores["metrics"]["sources/wrong/loss"] == pytest.approx(alone["loss"], rel=1e-6)
    assert not [name for name in alone["metrics"] if name.startswith("sources/")]


def test_a_run_shows_the_fingerprints_of_a_split(train, some_pairs, tmp_path):
    split = tiltlm.split(data=some_pairs, output=tmp_path / "parts", eval=0.3, progress=False)
    files = {part: str(tmp_path / "parts" / f"{part}.jsonl") for part in ("train", "validation")}
    run = train(tmp_path / "run", **{"data.train": files["train"], "data.eval": files["validation"], **OPTIONS})
    content = json.loads((run.path / "data.json").read_text())["content"]
    parts = split.account["parts"]
    assert content == {"train": parts["train"]["fingerprint"], "held_out": parts["validation"]["fingerprint"]}


def test_a_mixture_and_its_repetition_from_yaml(train, some_pairs, tmp_path):
    files = {}
    for name, rows in (("a", some_pairs[:24]), ("b", some_pairs[24:])):
        files[name] = tmp_path / f"{name}.jsonl"
        files[name].write_text("".join(json.dumps(row) + "\n" for row in rows))
    mixture = [{"path": str(files["a"]), "weight": 2}, {"path": str(files["b"]), "cap": 8, "source": "few"}]
    run = train(tmp_path / "run", data={"train": mixture, "eval_fraction": 0.3}, **OPTIONS)
    account = json.loads((run.path / "data.json").read_text())
    assert account["losses"]["above_cap"]["rows"] == len(some_pairs[24:]) - 8
    assert account["sources"].keys() == {"a.jsonl", "few"}
    assert account["sources"]["a.jsonl"] % 2 == 0
    again = tiltlm.train(run.path / "config.yaml", output=tmp_path / "again")
    losses = [
        [json.loads(line).get("loss") for line in (one.path / "metrics.jsonl").read_text().splitlines()]
        for one in (run, again)
    ]
    assert losses[0] == losses[1], "config.yaml of the run has the mixture"
