"""Rows and objectives as Python objects, and methods of a user's own module."""

import json
from pathlib import Path

import numpy as np
import pytest

from support.errors import raises
from tiltlm.config.resolve import resolve
from tiltlm.core import ConfigError, DataError
from tiltlm.data.files.sources import read_rows
from tiltlm.objectives import CATALOG, WeightedSum, dpo, ipo, kto, sft, tdpo2
from tiltlm.recipes.run_settings import RunSettings

ROWS = [{"prompt": f"p{i}", "chosen": "ä", "rejected": "b", "weight": 0.5 * i} for i in range(3)]
BASE = {"model": "M", "objective": "dpo", "output": "o"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TILTLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def frame(rows):
    import pandas as pd

    return pd.DataFrame(rows)


def dataset(rows):
    import datasets

    return datasets.Dataset.from_list(rows)


@pytest.mark.parametrize("made", [list, tuple, frame, dataset])
def test_rows_in_memory_are_read_as_those_of_a_file(made):
    settings = resolve(RunSettings, BASE, data=made(ROWS))
    rows = list(read_rows(settings.data))
    assert [row.values for row in rows] == ROWS
    assert Path(settings.data.train).name == "data.jsonl"
    assert resolve(RunSettings, {**BASE, "data": {"train": made(ROWS)}}).data == settings.data
    assert resolve(RunSettings, BASE, **{"data.train": made(ROWS)}).data == settings.data, "named by its content"
    assert resolve(RunSettings, BASE, data=made(ROWS[:2])).data != settings.data


def test_cells_without_a_value_and_arrays():
    rows = [{"prompt": "p", "completions": ["a", "b"], "scores": np.array([0.5, 1.0]), "note": None}]
    (found,) = read_rows(resolve(RunSettings, BASE, data=rows).data)
    assert found.values == {**rows[0], "scores": [0.5, 1.0]}
    sparse = frame([{"prompt": "p"}, {"prompt": "q", "weight": 2.0}])
    (first, _) = read_rows(resolve(RunSettings, BASE, data=sparse).data)
    assert first.values == {"prompt": "p", "weight": None}


def test_what_cannot_be_written_is_refused(own_cache):
    with raises(DataError, "wrong_type", key="data", row="data[1]"):
        resolve(RunSettings, BASE, data=[{"prompt": "p"}, {"prompt": object()}])
    assert not own_cache.exists()

    class Model:
        def save_pretrained(self, folder): ...

    for model in (Model(), (Model(), "tokenizer")):
        with raises(ConfigError, "wrong_type", key="model", mentions=["save_pretrained"]):
            resolve(RunSettings, BASE, data="d", model=model)


@pytest.mark.parametrize(
    "objective", [dpo(0.3), kto(), tdpo2(), WeightedSum((dpo(), ipo(0.2)), (0.8, 0.2))], ids=lambda o: type(o).__name__
)
def test_an_objective_may_be_an_object(objective):
    assert resolve(RunSettings, {**BASE, "data": "d"}, objective=objective).build_objective() == objective


def test_an_objective_without_parts_is_given_by_its_name():
    with raises(ConfigError, "wrong_type", key="objective"):
        resolve(RunSettings, {**BASE, "data": "d"}, objective=sft())


SOURCE = """
from tiltlm.links import Exponential
from tiltlm.objectives import Pairwise
from tiltlm.rewards import LogRatio


def exponential_dpo(beta: float = 0.1) -> Pairwise:
    return Pairwise(LogRatio(beta), Exponential())


def dpo(beta: float = 0.1) -> Pairwise:
    return Pairwise(LogRatio(beta), Exponential())


def no_method(text: str) -> str:
    return text
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    before = dict(CATALOG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("losses_of_a_user.py").write_text(SOURCE)
    yield "losses_of_a_user"
    CATALOG.clear()
    CATALOG.update(before)


def test_a_method_of_a_module_works_by_its_name(own_module):
    name = f"{own_module}:exponential_dpo"
    settings = resolve(RunSettings, {**BASE, "data": "d"}, objective=name, beta=0.4)
    assert settings.objective == {"name": name, "beta": 0.4}
    assert settings.build_objective().reward.beta == 0.4
    assert json.loads(json.dumps(settings.objective)) == settings.objective
    for wrong, code in (("nothing", "not_importable"), ("dpo", "duplicate"), ("no_method", "wrong_type")):
        with raises(ConfigError, code, key="objective.name"):
            resolve(RunSettings, {**BASE, "data": "d"}, objective=f"{own_module}:{wrong}")
    with raises(ConfigError, "unknown_name", mentions=["trl"]):
        resolve(RunSettings, {**BASE, "data": "d"}, objective="tlr:hinge")
    assert "no_method" not in CATALOG
