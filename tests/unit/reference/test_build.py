"""From settings to a reference: every name, and every combination that makes no sense."""

import re
from math import inf
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from support.errors import raises
from tiltlm.core.errors import ConfigError, DataError, ModelError
from tiltlm.core.example import Response, token_ids
from tiltlm.core.forest import Tree, pack_trees
from tiltlm.core.logps import ResponseLogps
from tiltlm.models.model_settings import ModelSettings
from tiltlm.reference import ReferenceSettings, base_digest, build_reference
from tiltlm.reference.reference import Reference

VOCAB = 40


def tokenizer(words: list[str] | None = None) -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate(words or [f"w{i}" for i in range(VOCAB)])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=next(iter(vocabulary))))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=list(vocabulary)[1])


@pytest.fixture
def policy(make, tmp_path, monkeypatch) -> SimpleNamespace:
    monkeypatch.setenv("TILTLM_STORE", str(tmp_path / "default"))
    return SimpleNamespace(module=make(), tokenizer=tokenizer(), settings=ModelSettings("unused"), sharding=None)


def build(policy: SimpleNamespace, is_needed: bool = True, **settings: object) -> Reference:
    return build_reference(
        ReferenceSettings(**settings),  # type: ignore[arg-type]
        policy,  # type: ignore[arg-type]
        is_needed=is_needed,
        max_tokens=100,
    )


def other_model(make, folder: Path, words: list[str] | None = None) -> str:
    make(seed=5).model.save_pretrained(folder)
    tokenizer(words).save_pretrained(folder)
    return str(folder)


def test_auto_is_initial_where_needed_and_none_elsewhere(policy, trees):
    reference = build(policy)
    assert reference.name == "initial"
    assert reference.digest == base_digest(policy.module)
    none = build(policy, is_needed=False)
    assert (none.name, none.digest, str(none)) == ("none", "", "none")
    responses = policy.module(pack_trees(trees))
    assert none.ensure(trees) == (0, 0)
    assert none.attach(responses, trees) is responses
    assert none.audit() == 0


@pytest.mark.parametrize(
    ("name", "starts_as_policy", "moves", "has_weights"),
    [
        ("auto", True, False, True),
        ("initial", True, False, True),
        ("moving", True, True, True),
        ("columns", False, False, False),
        ("folder", False, False, True),
    ],
)
def test_a_reference_says_what_it_is(policy, make, tmp_path, name, starts_as_policy, moves, has_weights):
    name = other_model(make, tmp_path / "other") if name == "folder" else name
    reference = build(policy, name=name, **({"rate": 0.5, "period": 2} if moves else {}))
    assert (reference.starts_as_policy, reference.moves, reference.has_weights) == (
        starts_as_policy,
        moves,
        has_weights,
    )


def test_adapters_say_what_they_start_as(make):
    pytest.importorskip("peft")
    for is_zero in (True, False):
        adapted = SimpleNamespace(module=make(lora=True, is_zero=is_zero), tokenizer=None, settings=None, sharding=None)
        assert build(adapted, name="initial").starts_as_policy
        assert not build(adapted, name="base").starts_as_policy


def test_the_store_is_where_it_was_said(policy, trees, tmp_path):
    build(policy).ensure(trees)
    assert list((tmp_path / "default").rglob("*.arrow"))
    build(policy, store=str(tmp_path / "mine")).ensure(trees)
    assert list((tmp_path / "mine").rglob("*.arrow"))


def test_without_cache_nothing_is_written(policy, trees, tmp_path):
    reference = build(policy, cache=False)
    reference.attach(policy.module(pack_trees(trees)), trees)
    assert reference.forwards == 1
    assert not (tmp_path / "default").exists()


def test_base_is_the_model_without_its_adapter(policy, make):
    pytest.importorskip("peft")
    adapted = SimpleNamespace(module=make(lora=True, is_zero=False), tokenizer=None, settings=None, sharding=None)
    base, initial = build(adapted, name="base"), build(adapted, name="initial")
    assert base.digest == build(policy).digest != initial.digest
    assert "adapters off" in str(base)
    assert "the adapter as loaded" in str(initial)


def test_another_model_is_a_reference(policy, make, trees, tmp_path):
    path = other_model(make, tmp_path / "other")
    reference = build(policy, name=path)
    assert reference.name == path
    assert reference.digest == base_digest(make(seed=5))
    responses = reference.attach(policy.module(pack_trees(trees)), trees)
    with torch.no_grad():
        other = make(seed=5)(pack_trees(trees)).token_logps
    torch.testing.assert_close(responses.ref_token_logps, other, atol=1e-5, rtol=0)


def test_another_models_tokens_must_be_the_policys(policy, make, tmp_path):
    words = [f"w{i}" for i in range(VOCAB)]
    path = other_model(make, tmp_path / "other", [*words[:7], words[8], words[7], *words[9:]])
    with raises(ModelError, "other_tokenizer", key="reference.name", mentions=[path]) as refusal:
        build(policy, name=path)
    numbers = re.findall(r"\d+", str(refusal.value).replace(path, ""))
    assert numbers in (["2", "7"], ["2", "8"]), "how many tokens, and one of them"


def test_a_name_on_the_hub_is_loaded_at_its_revision(policy, make, tmp_path, monkeypatch):
    asked = []

    def load(settings, device, key, sharding):
        asked.append(settings)
        return SimpleNamespace(module=make(seed=5), tokenizer=tokenizer())

    monkeypatch.setattr("tiltlm.reference.build.load_policy", load)
    monkeypatch.setattr("tiltlm.reference.reference_settings.check_reachable", lambda located: None)
    reference = build(policy, name="owner/model", revision="v2")
    build(policy, name="owner/model")
    assert [(s.path, s.revision, s.dtype) for s in asked] == [
        ("owner/model", "v2", "float32"), ("owner/model", None, "float32"),
    ]  # fmt: skip
    assert reference.name == "owner/model"


def test_a_folder_has_no_revision(policy, make, tmp_path):
    path = other_model(make, tmp_path / "other")
    with raises(
        ConfigError,
        "no_effect",
        key="reference.revision",
        mentions=["reference.revision=v2", f"reference.name={path}"],
    ):
        build(policy, name=path, revision="v2")


@pytest.mark.parametrize(
    ("is_needed", "settings", "code", "key", "mentions"),
    [
        (True, {"revision": "v2"}, "no_effect", "revision", ["reference.name=auto"]),
        (True, {"name": "base", "revision": "v2"}, "no_effect", "revision", ["reference.name=base"]),
        (False, {"name": "initial"}, "no_effect", "name", ["reference.name", "'initial'"]),
        (False, {"name": "columns"}, "no_effect", "name", ["reference.name", "'columns'"]),
        (True, {"name": "none"}, "needs_reference", "name", ["'none'", "'initial'"]),
        (True, {"name": "inital"}, "unknown_name", "name", ["'inital'", "'initial'"]),
        (True, {"name": "base"}, "no_adapter", "name", ["'base'"]),
        (True, {"name": "columns", "store": "x"}, "no_effect", "store", ["reference.name", "'columns'"]),
        (True, {"store": "x", "cache": False}, "no_effect", "store", ["reference.cache"]),
        (True, {"store_limit": 1.0, "cache": False}, "no_effect", "store_limit", ["reference.cache"]),
        (True, {"name": "columns", "store_limit": None}, "no_effect", "store_limit", ["'columns'"]),
        (True, {"store_limit": 0.0}, "not_positive", "store_limit", ["0.0"]),
        (True, {"store_limit": inf}, "not_positive", "store_limit", ["inf"]),
        (True, {"name": "columns", "cache": False}, "no_effect", "cache", ["reference.name=columns"]),
    ],
)
def test_what_makes_no_sense_is_refused(policy, is_needed, settings, code, key, mentions):
    with raises(ConfigError, code, key=f"reference.{key}", mentions=mentions):
        build(policy, is_needed, **settings)


def test_the_limit_is_in_gigabytes(policy, trees, tmp_path):
    build(policy, store=str(tmp_path)).ensure(trees)
    (file,) = tmp_path.rglob("*.arrow")
    for limit, is_kept in ((None, True), (1.1 * file.stat().st_size / 1e9, True), (1e-9, False)):
        build(policy, store=str(tmp_path), store_limit=limit).tidy()
        assert file.exists() == is_kept


def test_whole_distributions_are_not_stored(policy):
    for settings in ({"store": "x"}, {"store_limit": None}):
        with raises(ConfigError, "no_effect", key=f"reference.{next(iter(settings))}"):
            build_reference(ReferenceSettings(**settings), policy, is_needed=True, max_tokens=100, live=True)


def test_a_folder_that_is_not_there_is_an_error(policy):
    with raises(ModelError, "no_such_path", key="reference.name", mentions=["reference.name", "./nowhere"]):
        build(policy, name="./nowhere")


@pytest.mark.parametrize(("missing", "code"), [("config.json", "not_a_model"), ("model.safetensors", "no_weights")])
def test_a_folder_that_is_no_whole_model_is_an_error_of_the_reference(policy, make, tmp_path, missing, code):
    path = other_model(make, tmp_path / "other")
    (tmp_path / "other" / missing).unlink()
    with raises(ModelError, code, key="reference.name", mentions=[path]) as refusal:
        build(policy, name=path)
    assert "model.path" not in str(refusal.value)


def test_columns_are_taken_as_they_are(policy):
    tree = Tree(token_ids([1]), (Response(token_ids([2]), ref_logps=-3.5), Response(token_ids([3]), ref_logps=-4.25)))
    reference = build(policy, name="columns")
    assert reference.ensure([tree]) == (2, 0)
    forest = pack_trees([tree])
    responses = reference.attach(
        ResponseLogps(torch.tensor([-1.0, -2.0]), forest.response_index, forest.num_tokens), [tree]
    )
    assert responses.log_ratios.tolist() == [2.5, 2.25]
    assert reference.forwards == 0
    incomplete = Tree(token_ids([1]), (*tree.responses, Response(token_ids([4]))))
    with raises(DataError, "missing_ref_logps", key="reference.name", mentions=["1 of 3", "'columns'"]):
        reference.ensure([incomplete])
