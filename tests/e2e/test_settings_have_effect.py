"""Every setting is read by a run, or refused by it: none has no effect in silence."""

from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

import pytest

import tiltlm
from support.errors import raises
from support.recorded import another, recorded
from tiltlm.config.resolve import resolve
from tiltlm.core import ConfigError
from tiltlm.recipes.run_settings import (
    PREVIEW_READS,
    READ_IF,
    SCORE_READS,
    RunSettings,
    check_before_training,
    check_training,
)

pytestmark = pytest.mark.usefixtures("blank_figures")

SECTIONS = {name: kind for name, kind in get_type_hints(RunSettings).items() if is_dataclass(kind)}
KEYS = [f"{section}.{field.name}" for section, kind in SECTIONS.items() for field in fields(kind)]
WHERE_TO_STORE = {"reference.store", "reference.store_limit", "reference.cache"}
"""These may be given to all runs, as $TILTLM_STORE is; a method without a reference stores nothing."""


def is_refused(settings: dict[str, Any], key: str, reads: tuple[str, ...] | None) -> bool:
    """Return whether a command refuses this setting as one without effect."""
    section, name = key.split(".")
    default = getattr(getattr(resolve(RunSettings, settings), section), name)
    try:
        found = resolve(RunSettings, settings, {}, reads, **{key: another(SECTIONS[section], name, default)})
        if reads is None:
            check_before_training(found)
            check_training(found, found.build_objective())
    except ConfigError as error:
        return error.code in ("no_effect", "conflict", "needs_held_out") and error.key == key
    return False


@pytest.mark.parametrize(
    ("command", "reads", "given", "samples"),
    [
        ("train", None, {"data": {"eval_fraction": 0.25}}, True),
        ("train", None, {"data": {"eval_fraction": 0.0, "on_bad": "error"}}, False),
        ("train", None, {"data": {"eval_fraction": 0.25}, "objective": "reward_model"}, False),
        ("train", None, {"data": {"eval_fraction": 0.25}, "evaluation": {"num_prompts": 0}}, False),
        ("score", SCORE_READS, {"reference": "initial"}, False),
        ("preview", PREVIEW_READS, {}, False),
    ],
    ids=["train", "nothing held out", "reward model", "no samples", "score", "preview"],
)
def test_a_setting_is_read_or_refused(model, data, tmp_path, monkeypatch, command, reads, given, samples):
    base = {"model": model, "objective": "dpo", "output": str(tmp_path / "run"), **given}
    settings = {**base, "data": {"train": str(data), **given.get("data", {})}}
    short = {"training": {"max_steps": 2}, **({"evaluation": {"max_new_tokens": 8}} if samples else {})}
    steps = iter([False])  # the first step is skipped, as one that is not finite, so that max_bad_steps is read
    monkeypatch.setattr("tiltlm.training.loop.is_good", lambda *_: next(steps, True))
    with recorded(SECTIONS) as found:
        getattr(tiltlm, command)({**settings, **short})
    anywhere = WHERE_TO_STORE if given.get("objective") else set()
    silent = [key for key in KEYS if key not in found | anywhere and not is_refused(settings, key, reads)]
    assert silent == []


@pytest.mark.parametrize("command", ["train", "score", "preview"])
@pytest.mark.parametrize("key", ["data.split", "data.eval_split", "data.subset", "data.revision"])
def test_a_setting_of_datasets_on_the_hub_is_refused_for_a_file(model, data, tmp_path, command, key):
    """The reader of the data looks at these in every run, so the walk above counts them as read."""
    sources = {"train": str(data), **({"eval": str(data)} if key == "data.eval_split" else {})}
    settings = {"model": model, "data": sources, "objective": "dpo", "output": str(tmp_path / "run")}
    settings |= {"reference": "initial"} if command == "score" else {}
    with raises(ConfigError, "no_effect", key=key):
        getattr(tiltlm, command)(settings, **{key: "any"})


def test_the_resolved_settings_of_a_run_are_never_refused(model, data, tmp_path):
    """Every setting at its default is no mistake, whatever else is set."""
    for fraction in (0.0, 0.25):
        settings = resolve(
            RunSettings, {"model": model, "data": {"train": str(data), "eval_fraction": fraction}, "objective": "dpo",
                          "output": str(tmp_path / "run")},
        )  # fmt: skip
        check_training(settings, settings.build_objective())


def test_the_conditions_name_settings_that_exist():
    assert {key for rule in READ_IF for key in rule.keys} <= set(KEYS)
