"""Rows and objectives as Python objects, and methods of a user's own module."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoTokenizer

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


def test_a_model_with_its_tokenizer_becomes_a_folder(make_model, write_tokenizer, tmp_path, own_cache):
    write_tokenizer(tmp_path)
    pair = make_model("llama", torch.float32), AutoTokenizer.from_pretrained(tmp_path)
    settings = resolve(RunSettings, BASE, data="d", model=pair, reference=pair)
    folder = Path(settings.model.path)
    assert folder.parent == own_cache / "models"
    assert settings.reference.name == settings.model.path, "named by its content"
    assert (folder / "config.json").exists()
    for given in ({"model": {"path": pair, "dtype": "float64"}}, {"model.path": pair}, {"model": list(pair)}):
        assert resolve(RunSettings, {**BASE, "data": "d"}, **given).model.path == str(folder)
    with raises(ConfigError, "wrong_type", key="model.adapter"):
        resolve(RunSettings, {**BASE, "data": "d"}, **{"model.adapter": pair})
    with raises(ConfigError, "no_tokenizer", key="model"):
        resolve(RunSettings, BASE, data="d", model=pair[0])


def test_an_object_that_is_no_longer_in_the_cache_is_named(own_cache):
    path = Path(resolve(RunSettings, BASE, data=ROWS).data.train)
    again = {"data": str(path)}
    os.utime(path.parent, (0, 0))
    resolve(RunSettings, BASE, **again)
    assert path.parent.stat().st_mtime > 0, "a run by its configuration counts as a use"
    shutil.rmtree(path.parent)
    with raises(ConfigError, "no_such_path", key="data"):
        resolve(RunSettings, BASE, **again)
    with raises(ConfigError, "no_such_path", key="data.train"):
        resolve(RunSettings, {**BASE, "data": {"train": [str(path)]}})
    resolve(RunSettings, BASE, data=ROWS)
    resolve(RunSettings, BASE, **again)


def test_a_file_may_name_an_object_that_is_gone(tmp_path, own_cache):
    path = Path(resolve(RunSettings, BASE, data=ROWS).data.train)
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({**BASE, "data": {"train": str(path)}}))
    resolve(RunSettings, file)
    shutil.rmtree(path.parent)
    with raises(ConfigError, "no_such_path", key="data.train"):
        resolve(RunSettings, file)


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
