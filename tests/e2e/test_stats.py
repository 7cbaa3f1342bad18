"""Statistics of data on the command line, in Python and as a page."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import tiltlm
from support.errors import raises
from tiltlm.cli.main import app
from tiltlm.core import ConfigError, DataError
from tiltlm.worlds import TextWorld

SHARED = Path(__file__).parents[3] / "shared"


@pytest.fixture
def data(tmp_path):
    """Pairs of which the longer response usually wins."""
    rng = random.Random(0)
    rows = []
    for k in range(240):
        chosen, rejected = "good " * rng.randint(2, 30), "bad " * rng.randint(1, 20)
        rows.append(
            {"prompt": f"question {k % 120} of many", "chosen": chosen, "rejected": rejected, "source": "ab"[k % 2]}
        )
    rows.append({"prompt": "empty", "chosen": "", "rejected": "x"})
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_numbers_recomputed_from_the_file(data):
    found = tiltlm.stats(data, json=True, progress=False)
    rows = [json.loads(line) for line in data.read_text().splitlines()][:-1]
    words = [(len(r["chosen"].split()), len(r["rejected"].split())) for r in rows]
    bias = found["length_bias"]["words"]
    assert bias["longer"]["estimate"] == pytest.approx(
        np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a, b in words])
    )
    assert bias["mean_gap"]["estimate"] == pytest.approx(np.mean([a - b for a, b in words]))
    assert bias["equal"] == sum(a == b for a, b in words)
    assert found["rows"] == {"read": 241, "used": 240, "left_out": {"empty_response": 1}}
    assert found["prompts"]["distinct"] == 120
    assert found["sources"] == {"a": 120, "b": 120}
    assert found["lengths"]["characters"]["chosen"]["mean"] == pytest.approx(np.mean([len(r["chosen"]) for r in rows]))


def test_tokens_are_those_of_training(data, tmp_path):
    model = str(TextWorld().model_path())
    found = tiltlm.stats(data, model=model, json=True, progress=False)
    kept = tiltlm.load_data(str(data), tiltlm.load_policy(model), eval_fraction=0.0)
    lengths = [len(example.responses[0].token_ids) for example in kept.train]
    assert found["lengths"]["tokens"]["chosen"]["mean"] == pytest.approx(np.mean(lengths))
    assert found["lengths"]["tokens"]["chosen"]["max"] == max(lengths)


def test_the_page_and_the_command_line(data, tmp_path):
    page = tmp_path / "stats.html"
    run = CliRunner().invoke(app, ["stats", str(data), "--html", str(page), "--needed"])
    assert run.exit_code == 0, run.stderr
    assert "240 rows of pairs with 120 distinct prompts" in run.stdout
    assert "How many labels are needed?" in run.stdout
    text = page.read_text(encoding="utf-8")
    assert 'id="lengths-words"' in text
    assert 'id="needed"' in text
    assert "http" not in text.replace("http-equiv", "")
    twin = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    assert twin["schema"] == "tiltlm.stats/1"
    assert len(twin["win_rates"]) == 6
    run = CliRunner().invoke(app, ["stats", str(data), "--html", str(page)])
    assert isinstance(run.exception, ConfigError)
    run = CliRunner().invoke(app, ["stats", str(data), "--json"])
    assert json.loads(run.stdout)["shape"] == "pairs"


@pytest.mark.parametrize(
    "rows",
    [
        [{"prompt": "p", "completion": "good", "label": True}, {"prompt": "p", "completion": "bad", "label": False}],
        [{"prompt": "p", "completions": ["a", "b b", "c"], "scores": [1, 3, 2]}],
        [{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}],
        [{"text": "only a text"}],
        [{"prompt_ids": [1, 2], "chosen_ids": [3, 4], "rejected_ids": [5]}],
        [{"prompt": "p", "chosen": "a", "rejected": "b", "preference": 0.5}],
    ],
    ids=["unpaired", "lists", "messages", "text", "token ids", "a tie"],
)
def test_every_shape_has_statistics_and_a_page(tmp_path, rows):
    path, page = tmp_path / "rows.jsonl", tmp_path / "page.html"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = tiltlm.stats(path, html=page, progress=False)
    assert found.statistics.num_rows == len(rows)
    assert found.summary().startswith(f"{len(rows)} row")
    assert page.exists()
    assert "NaN" not in json.dumps(found.as_dict())


def test_what_is_refused(data, tmp_path):
    with raises(ConfigError, "no_effect", key="data.as_chat"):
        tiltlm.stats(data, progress=False, **{"data.as_chat": True})
    with raises(ConfigError, "no_effect", key="data.eval_fraction"):
        tiltlm.stats(data, progress=False, **{"data.eval_fraction": 0.5})
    with raises(ConfigError, "unknown_file_format", key="--html"):
        tiltlm.stats(data, html=tmp_path / "page.txt", progress=False)
    path = tmp_path / "texts.jsonl"
    path.write_text(json.dumps({"text": "only a text"}) + "\n")
    with raises(DataError, "wrong_data_shape", key="--needed"):
        tiltlm.stats(path, needed=True, progress=False)


def test_a_notebook_gets_a_table(data):
    found = tiltlm.stats(data, progress=False)
    assert set(found.to_pandas()["unit"]) == {"characters", "words"}
    assert "<table" in found._repr_html_()
    assert repr(found).startswith("Described:")


@pytest.mark.skipif(not (SHARED / "data" / "hh-harmless.jsonl.gz").exists(), reason="needs the shared data")
def test_real_pairs():
    found = tiltlm.stats(SHARED / "data" / "hh-harmless.jsonl.gz", progress=False).statistics
    assert found.accounting.total == 1700
    assert found.num_rows + found.accounting.dropped == 1700
