"""Every causal language model of transformers: none is wrong without an error, and the page lists all layouts.

One test examines models, all of them in `./test --long`. The other tests check that it would find an error.
"""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

from tiltlm.logprobs import Choice
from tiltlm.logprobs.head.states import Head

HERE = Path(__file__).parent
SCRIPT = HERE.parents[1] / "scripts" / "make_architecture_table.py"
AGAIN = "run: python scripts/make_architecture_table.py"
COMMON = {
    "llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "qwen3_next", "gemma2", "gemma3_text", "gpt2",
    "gpt_oss", "phi3", "olmo2", "deepseek_v3", "mamba",
}  # fmt: skip
"""Models that many people train."""


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))


@pytest.fixture
def tools(monkeypatch):
    """The modules beside this file: tiny, verify, walk."""
    monkeypatch.syspath_prepend(HERE)
    import tiny
    import verify
    import walk

    return tiny, verify, walk


@pytest.mark.slow
@pytest.mark.parametrize("which", ["common", pytest.param("all", marks=pytest.mark.long)])
def test_no_architecture_is_silently_wrong(script, which):
    """Each in its own process, two at a time; each must be as recorded. One of each kind is with the common ones."""
    _, records = script["recorded"]()
    as_recorded = {r["model_type"]: (r["route"], r["head"]) for r in records}
    kinds = {kind: name for name, kind in as_recorded.items()}
    names = [] if which == "all" else sorted(COMMON | {*kinds.values()})
    done = subprocess.run([sys.executable, HERE / "walk.py", *names], stdout=subprocess.PIPE, text=True, check=True)
    found = {record["model_type"]: record for record in map(json.loads, done.stdout.splitlines())}
    wrong = {name: record["reason"] for name, record in found.items() if record["route"] == "wrong"}
    assert not wrong
    expected = {name: as_recorded[name] for name in names} if names else as_recorded
    assert {name: (r["route"], r["head"]) for name, r in found.items()} == expected, AGAIN


def test_every_architecture_of_this_transformers_is_recorded(script, tools):
    _, _, walk = tools
    versions, records = script["recorded"]()
    assert versions["transformers"] == transformers.__version__, AGAIN
    assert [r["model_type"] for r in records] == sorted(walk.all_model_types()), AGAIN
    assert not [r["model_type"] for r in records if r["route"] == "wrong"]


def test_the_page_says_what_is_recorded(script):
    assert script["PAGE"].read_text() == script["page"](*script["recorded"]()), f"{AGAIN} --page"


@pytest.mark.parametrize(
    ("model_type", "layout", "what"),
    [
        ("mamba", "packed", "packed: values off by"),  # its state runs through the whole row
        ("gpt_neo", "shared", "shared: values off by"),  # it ignores the hook
        ("xlm", "padded", "padded: later tokens move earlier ones"),  # it is bidirectional, and masks padding itself
        ("gemma2", "shared", "shared: values off by"),  # with a head without soft cap
    ],
)
def test_a_wrong_choice_is_found(tools, monkeypatch, model_type, layout, what):
    tiny, verify, _ = tools
    verify.quiet()
    monkeypatch.delitem(tiny.OVERRIDES, "xlm")
    monkeypatch.setattr(verify, "choose_layout", lambda model: Choice(layout, Head(), 0.0, 1.0))
    record = verify.examine(model_type)
    assert record.route == "wrong"
    assert record.reason.startswith(what)


def test_a_gradient_is_compared_parameter_by_parameter(tools):
    """The error of a small parameter's gradient is relative to that parameter's own gradient."""
    _, verify, _ = tools
    wanted = (torch.tensor([1.0, -2.0]), torch.tensor([0.1]), None)
    assert verify.gradient_error(wanted, wanted) == 0
    assert verify.gradient_error(wanted, (wanted[0], torch.tensor([0.11]), None)) == pytest.approx(0.1)
    assert verify.gradient_error(wanted, (wanted[0], wanted[1], torch.tensor([1.0]))) == pytest.approx(50)
    assert verify.gradient_error(wanted, (wanted[0], torch.tensor([float("nan")]), None)) == float("inf")


def test_what_is_too_large_is_not_built(tools, monkeypatch):
    _, verify, _ = tools
    monkeypatch.setattr(verify, "LARGEST", 1000)
    record = verify.examine("llama")
    assert record.route == "skipped"
    assert re.fullmatch("0 M parameters at its smallest", record.reason)


@pytest.mark.parametrize(
    ("limit", "target", "reason"),
    [(0.0, None, "not done after 0 s"), (60.0, os._exit, "its process ended with exit code")],
)
def test_a_hang_and_a_crash_are_recorded(tools, limit, target, reason, capfd):
    _, _, walk = tools
    record = walk.in_own_process(walk.forked_from_imported(), "llama", limit, target)
    assert record["route"] == "wrong"
    assert record["reason"].startswith(reason)


@pytest.mark.parametrize("model_type", ["gemma3_text", "gpt_oss", "qwen3_next", "afmoe"])
def test_a_tiny_configuration_keeps_one_layer_of_each_kind(tools, model_type):
    tiny, _, _ = tools
    default = transformers.AutoConfig.for_model(model_type)
    config = tiny.tiny_config(model_type, near=True)
    assert config.hidden_size == 32
    assert config.vocab_size == tiny.VOCABULARY
    assert len(config.layer_types) == config.num_hidden_layers <= 4
    assert set(config.layer_types) == set(default.layer_types)


def test_reaches_are_cut_only_nearby(tools):
    tiny, _, _ = tools
    far, near = (tiny.tiny_config("mistral", near) for near in (False, True))
    assert far.sliding_window == transformers.MistralConfig().sliding_window
    assert near.sliding_window == tiny.REACH
