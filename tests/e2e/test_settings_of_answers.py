"""Every setting of sampling, and of each kind of judge, is read or refused: none is ignored in silence."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import transformers

import tiltlm
from support.completions_server import choice, completion, serving
from support.errors import raises
from support.fake_server import Say, fake_server
from support.recorded import another, recorded
from support.simulated_people import prefers, vote_all
from tiltlm.config.resolve import resolve
from tiltlm.core import ConfigError, RunError, TiltError
from tiltlm.judging import PairItem, build_judge
from tiltlm.judging.judge_settings import KINDS, JudgeSettings
from tiltlm.recipes.answers.sample_settings import DEFAULTS, SAMPLE_READS, SampleSettings
from tiltlm.recipes.online.loop_run import LoopRunSettings
from tiltlm.worlds import TextWorld

PAIR = {
    "prompt": "How much is 1 + 1?",
    "chosen": "It is 2.",
    "rejected": "It is 3.",
    "answer": "2",
    "tests": ["assert True"],
    "rubric": ["it is short"],
}


def is_refused(call, section: str, name: str) -> bool:
    """Return whether the call refuses a setting as one without effect."""
    try:
        call()
    except ConfigError as error:
        return error.code in ("no_effect", "conflict") and error.key == f"{section}.{name}"
    return False


@contextmanager
def vllm() -> Iterator[str]:
    """Serve completions as vLLM does, one answer to each request."""
    with serving(lambda body, _: completion(choice([5, 2], [-1.0, -1.0]))) as server:
        yield server.url


@pytest.mark.parametrize("engine", ["own", "generate_batch", "server"])
def test_a_setting_of_sampling_is_read_or_refused(model, tmp_path, engine):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": "Hello"}) + "\n")
    kinds = get_type_hints(SampleSettings)
    silent = []
    with vllm() if engine == "server" else nullcontext(engine) as name:
        given = {"engine.name": name, "temperature": 0.7, "max_new_tokens": 4, "progress": False}
        with recorded(kinds) as found:
            tiltlm.sample(model, str(prompts), **given)
        defaults = resolve(SampleSettings, None, DEFAULTS, SAMPLE_READS, model=model, data=str(prompts), engine=name)
        for section, kind in kinds.items():
            for key in (field.name for field in fields(kind) if f"{section}.{field.name}" not in found):
                value = another(kind, key, getattr(getattr(defaults, section), key))
                call = partial(tiltlm.sample, model, str(prompts), **given, **{f"{section}.{key}": value})
                if not is_refused(call, section, key):
                    silent.append(f"{section}.{key}")
    assert not silent, silent


@pytest.fixture
def arguments(model, tmp_path):
    """Return the settings that each kind of judge cannot do without."""
    (tmp_path / "schema.json").write_text("{}")
    scorer = transformers.AutoModelForSequenceClassification.from_pretrained(model, num_labels=1)
    scorer.save_pretrained(tmp_path / "rm")
    transformers.AutoTokenizer.from_pretrained(model).save_pretrained(tmp_path / "rm")
    needed = {
        "verifier": {"function": "operator:contains"},
        "regex": {"pattern": "2"},
        "json_schema": {"schema": str(tmp_path / "schema.json")},
        "reward_model": {"model": str(tmp_path / "rm")},
        "implicit": {"model": model, "reference": model},
        "panel": {"judges": ["length", "gold"]},
        "people": {"database": judged_by_people(tmp_path / "label.db"), "wait": "stop"},
        **{kind: {"model": model} for kind in ("pairwise", "grade", "rubric")},
    }
    return {kind: {"kind": kind, **needed.get(kind, {})} for kind in KINDS}


def judged_by_people(database: Path) -> str:
    """Return a labelling project in which people have voted on the pair."""
    judge = build_judge({"kind": "people", "database": str(database), "wait": "stop"})
    with suppress(RunError):
        list(judge.compare([PairItem(PAIR["prompt"], PAIR["chosen"], PAIR["rejected"])]))
    vote_all(judge.project, ("ann", "bob", "cho"), prefers(len))
    judge.project.close()
    return str(database)


@pytest.mark.parametrize("place", [*KINDS, "pairwise at a server", "grade at a server", "rubric at a server"])
def test_a_setting_of_a_judge_is_read_or_refused(arguments, tmp_path, place):
    kind, _, served = place.partition(" ")
    prices = tmp_path / "prices.yaml"
    prices.write_text("any: {input: 1, output: 1}")
    with fake_server(lambda request, number: Say(400, {"detail": "no"})) if served else nullcontext() as server:
        given = {**arguments[kind], **({"url": server.url} if server else {})}
        with recorded({"judge": JudgeSettings}) as found, suppress(TiltError):
            judged(given, tmp_path / "judged.jsonl")
        silent = []
        for field in fields(JudgeSettings):
            if f"judge.{field.name}" not in found and field.name not in given:
                changed = {**given, field.name: another(JudgeSettings, field.name, field.default)}
                if not is_refused(partial(judged, changed, tmp_path / "judged.jsonl"), "judge", field.name):
                    silent.append(field.name)
    assert not silent, silent


def judged(judge: dict[str, Any], output: Path) -> None:
    """Judge one pair, in both orders where the judge compares."""
    tiltlm.judge(data=[PAIR], judge=judge, unaudited=True, output=output, overwrite=True, progress=False)


@pytest.mark.parametrize(
    ("kind", "key"),
    [("gold", "both_orders"), ("gold", "soft"), ("gold", "scale"), ("panel", "scale"), ("pairwise", "both_orders")],
)
@pytest.mark.parametrize("command", ["compare", "best_of_n", "judge_audit"])
def test_a_setting_for_data_is_refused_where_a_judge_measures(arguments, model, tmp_path, command, kind, key):
    if (command, kind, key) == ("judge_audit", "gold", "scale"):
        pytest.skip("an audit judges by σ(difference / scale)")
    value = another(JudgeSettings, key, getattr(JudgeSettings, key))
    judge = {**arguments[kind], key: value}
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps(PAIR) + "\n")
    calls = {
        "compare": partial(tiltlm.compare, [f"a={model}", f"b={model}"], prompts=str(prompts), output=tmp_path / "out"),
        "best_of_n": partial(tiltlm.best_of_n, model, prompts=str(prompts), output=tmp_path / "out"),
        "judge_audit": partial(tiltlm.judge_audit, data=str(prompts), output=tmp_path / "audit.json"),
    }
    with raises(ConfigError, "no_effect", key=f"judge.{key}"):
        calls[command](judge=judge, progress=False)


def test_a_setting_of_a_loop_is_read_or_refused(model, tmp_path, monkeypatch):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in TextWorld().prompts("train")[:8]))
    kinds = {name: kind for name, kind in get_type_hints(LoopRunSettings).items() if is_dataclass(kind)}
    given: dict[str, Any] = {"preset": "online_dpo", "model": model, "data": str(prompts), "judge": "gold"}
    given |= {"loop.rounds": 2, "batch_size": 2, "max_new_tokens": 24, "progress": False}
    steps = iter([False])  # the first step is skipped, as one that is not finite, so that max_bad_steps is read
    monkeypatch.setattr("tiltlm.training.loop.is_good", lambda *_: next(steps, True))
    with recorded(kinds) as found:
        tiltlm.loop(output=tmp_path / "run", **given)
    settings = {"model": model, "data": str(prompts), "output": str(tmp_path / "other"), "objective": "dpo"}
    defaults, silent = resolve(LoopRunSettings, settings), []
    for section, kind in kinds.items():
        for key in (field.name for field in fields(kind) if f"{section}.{field.name}" not in found):
            value = another(kind, key, getattr(getattr(defaults, section), key))
            call = partial(
                tiltlm.loop, output=tmp_path / "other", overwrite=True, **given, **{f"{section}.{key}": value}
            )
            if not is_refused(call, section, key):
                silent.append(f"{section}.{key}")
    assert not silent, silent
