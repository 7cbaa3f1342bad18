"""Errors carry stable names, keep them across processes, and every one that is raised has some."""

import ast
import pickle
import re
from pathlib import Path

import pytest
import torch

import tiltlm
from support.errors import raises
from tiltlm.core import ConfigError, DataError, RunError, TiltError
from tiltlm.core.checks import between, positive, prefix_errors
from tiltlm.core.errors import is_own_mistake
from tiltlm.core.example import Response, token_ids
from tiltlm.core.forest import Tree
from tiltlm.logprobs.plain import plain_logps, select_logps

ROOT = Path(tiltlm.__file__).parent
KINDS = {"ConfigError", "DataError", "ModelError", "RunError", "NumericsError"}


def calls(file: Path) -> list[ast.Call]:
    """Return the calls that make an error, in a source file."""
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return [n for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id in KINDS]


def test_every_error_has_a_code():
    found = [(file, call) for file in ROOT.rglob("*.py") for call in calls(file)]
    assert len(found) > 200
    for file, call in found:
        place = f"{file.relative_to(ROOT)}:{call.lineno}"
        codes = [keyword.value for keyword in call.keywords if keyword.arg == "code"]
        assert codes, f"{place}: this error has no code"
        if isinstance(codes[0], ast.Constant):
            assert re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", codes[0].value), f"{place}: {codes[0].value!r}"


def test_names_survive_a_process():
    error = DataError("a.jsonl:3: no prompt", code="missing_value", row="a.jsonl:3")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.code, copy.key, copy.row) == (
        DataError, "a.jsonl:3: no prompt", "missing_value", None, "a.jsonl:3",
    )  # fmt: skip


@pytest.mark.parametrize(("kind", "exit_code"), [(ConfigError, 2), (DataError, 2), (RunError, 1), (TiltError, 1)])
def test_wrong_use_and_failure_have_their_exit_codes(kind, exit_code):
    assert kind("words", code="some_rule").exit_code == exit_code


def test_a_place_goes_before_key_and_message():
    with (
        raises(ConfigError, "not_positive", key="objective.reward.beta", mentions=["objective.reward.beta is -1.0"]),
        prefix_errors("objective"),
        prefix_errors("reward"),
    ):
        positive(beta=-1.0)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_range_has_two_ends(value):
    between(0.0, 1.0, share=0.0), between(0.0, 1.0, share=1.0)
    with raises(ConfigError, "out_of_range", key="share", mentions=[str(value)]):
        between(0.0, 1.0, share=value)


def caught(call):
    with pytest.raises(Exception) as failure:  # noqa: PT011  # any
        call()
    return failure.value


@pytest.mark.parametrize(
    ("call", "is_own"),
    [
        (lambda: positive(beta=-1), False),  # on purpose
        (lambda: select_logps(torch.ones(1, 2), torch.zeros(1)), True),  # torch raises it for a call of ours
        (lambda: select_logps(torch.ones(1, 2), None), True),
        (lambda: plain_logps(torch.nn.Linear(2, 2), [TREE]), True),  # no device: our assumption
        (lambda: plain_logps(Deaf(), [TREE]), False),  # a model that does not take our keywords
        (lambda: plain_logps(Broken(), [TREE]), False),
    ],
)
def test_a_mistake_of_ours_is_told_from_an_error_of_a_model(call, is_own):
    assert is_own_mistake(caught(call)) == is_own


class Deaf(torch.nn.Module):
    device = "cpu"

    def forward(self, tokens):
        return tokens


class Broken(torch.nn.Module):
    device = "cpu"

    def forward(self, **keywords):
        return torch.nn.functional.pad(None, (1, 1))


TREE = Tree(token_ids([1, 2]), (Response(token_ids([3])),))
