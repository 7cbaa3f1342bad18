"""Settings of judges: short form, refusals, audits."""

import json
from dataclasses import fields
from importlib import import_module

import pytest

from support.errors import raises
from tiltlm.core import ConfigError
from tiltlm.judging import JudgeSettings, build_judge
from tiltlm.judging.judge_settings import COMMON, KINDS


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("gold", {"kind": "gold"}),
        ("reward_model:runs/rm/model", {"kind": "reward_model", "model": "runs/rm/model"}),
        ("implicit:a/b@c", {"kind": "implicit", "model": "a/b", "reference": "c"}),
        ("verifier:checks:is_short", {"kind": "verifier", "function": "checks:is_short"}),
        ("regex:^yes: (.*)$", {"kind": "regex", "pattern": "^yes: (.*)$"}),
        ("numeric:right", {"kind": "numeric", "column": "right"}),
        ("exact", {"kind": "exact"}),
    ],
)
def test_the_short_form(text, values):
    assert JudgeSettings.of(text) == JudgeSettings(**values)
    assert JudgeSettings.of({"kind": text}) == JudgeSettings(**values)


@pytest.mark.parametrize(
    ("values", "code", "key"),
    [
        ({"kind": "golden"}, "unknown_name", "judge.kind"),
        ({"kind": "golden:x"}, "unknown_name", "judge.kind"),
        ({"kind": "gold:x"}, "wrong_type", "judge.kind"),
        ({"kind": "regex:"}, "wrong_type", "judge.kind"),
        ({"kind": "reward_model"}, "missing_setting", "judge.model"),
        ({"kind": "implicit:policy"}, "missing_setting", "judge.reference"),
        ({"kind": "reward_model:a", "model": "b"}, "conflict", "judge.model"),
        ({"kind": "gold", "tolerance": 0.1}, "no_effect", "judge.tolerance"),
        ({"kind": "numeric", "tolerance": -1.0}, "not_positive", "judge.tolerance"),
        ({"kind": "gold", "scale": 0.0}, "not_positive", "judge.scale"),
        ({"kind": "gold", "colour": 1}, "unknown_setting", "judge.colour"),
    ],
)
def test_refusals(values, code, key):
    with raises(ConfigError, code, key=key):
        JudgeSettings.of(values)


def test_the_table_names_settings_and_functions_that_exist():
    names = {field.name for field in fields(JudgeSettings)}
    for kind in KINDS.values():
        module, _, function = kind.maker.partition(":")
        assert callable(getattr(import_module(module), function))
        assert {*kind.reads, *kind.needs} | ({kind.argument} - {None}) <= names
    read = {name for kind in KINDS.values() for name in (*kind.reads, kind.argument)}
    assert names - read - {None} == set(COMMON), "every setting is read by a kind, or by all"


def test_an_audit_belongs_to_one_judge_and_sets_the_scale(tmp_path):
    file = tmp_path / "audit.json"
    file.write_text(json.dumps({"digest": build_judge("length").digest, "scale": 12.5}))
    assert build_judge("length").scale == 1.0
    assert build_judge({"kind": "length", "audit": str(file)}).scale == 12.5
    assert build_judge({"kind": "length", "audit": str(file), "scale": 3.0}).scale == 3.0
    with raises(ConfigError, "other_judge", key="judge.audit"):
        build_judge({"kind": "gold", "audit": str(file)})
    file.write_text("[]")
    with raises(ConfigError, "damaged", key="judge.audit"):
        build_judge({"kind": "length", "audit": str(file)})
    with raises(ConfigError, "no_such_path", key="judge.audit"):
        build_judge({"kind": "length", "audit": str(tmp_path / "none")})


def test_the_role_is_that_of_the_call():
    assert build_judge("length").role == "held_out"
    assert build_judge("length", role="train").role == "train"


def test_a_panel_is_made_of_short_forms():
    panel = build_judge({"kind": "panel", "judges": ["length", "gold"], "combine": "worst"})
    assert [member.name for member in panel.members] == ["length", "gold"]
    with raises(ConfigError, "unknown_name"):
        build_judge({"kind": "panel", "judges": ["length", "golden"]})
