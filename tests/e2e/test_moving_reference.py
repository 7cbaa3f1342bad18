"""TR-DPO from the outside: `reference: {name: moving, …}` trains, and its report is about the untrained policy."""

import json

import pytest

import tiltlm
from support.errors import events, raises
from tiltlm.core import ConfigError

pytestmark = pytest.mark.usefixtures("blank_figures")
MOVING = {"reference": {"name": "moving", "rate": 1.0, "period": 6}}


@pytest.mark.parametrize("lora", [False, True])
def test_the_report_measures_to_the_untrained_policy(train, data, tmp_path, caplog, lora):
    """After the last of 6 steps the reference equals the policy: margins to it are 0, to the untrained policy not."""
    adapter = {"model.lora.r": 4} if lora else {}
    with caplog.at_level("DEBUG", "tiltlm"):
        run = train(
            tmp_path / "run", data=data, objective="dpo", beta=0.5, learning_rate=5e-3 if lora else 1e-3, batch_size=8,
            max_steps=6, eval_fraction=0.25, eval_every=3, **MOVING, **adapter,
        )  # fmt: skip
    assert any("step 6" in message and "reference" in message for message in caplog.messages)
    (named,) = events(caplog, "reference")
    assert "moving(1, 6)" in named.reference
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    margins = {line["step"]: line["eval_rewards/margins"] for line in lines if "eval_loss" in line}
    assert abs(margins[0]) < 1e-4
    assert margins[3] > 0.01
    assert abs(margins[6]) < 1e-4
    contrast = run.report.held_out.contrast
    assert run.report.held_out.starts_at_reference
    assert contrast.margin.after.estimate > margins[3]
    assert contrast.margin.before.estimate == 0
    assert run.report.samples.after.kl_k3.estimate > 1e-3, "the estimator that is never negative; 0 to itself"
    assert "to the untrained policy" in run.report.facts["Reference"]


def test_an_objective_that_reads_distributions_can_have_one(train, data, tmp_path):
    run = train(
        tmp_path / "run", data=data, objective="tdpo2", learning_rate=1e-3, batch_size=8, max_steps=3,
        eval_fraction=0.25, reference={"name": "moving", "rate": 0.5, "period": 1},
    )  # fmt: skip
    assert run.training.num_steps == 3


def test_the_resolved_configuration_says_it(train, data, tmp_path):
    run = train(tmp_path / "run", data=data, objective="dpo", max_steps=1, **MOVING)
    assert "period: 6" in (run.path / "config.yaml").read_text()
    again = tiltlm.train(run.path / "config.yaml", output=tmp_path / "again")
    assert again.training.num_steps == 1


@pytest.mark.parametrize(
    ("objective", "reference", "code", "key"),
    [
        ("dpo", "moving", "missing_setting", "reference.rate"),
        ("dpo", {"name": "moving", "rate": 0.6}, "missing_setting", "reference.period"),
        ("dpo", {**MOVING["reference"], "store": "x"}, "no_effect", "reference.store"),
        ("simpo", MOVING["reference"], "no_effect", "reference.name"),
    ],
)
def test_what_makes_no_sense_is_refused(train, data, tmp_path, objective, reference, code, key):
    with raises(ConfigError, code, key=key):
        train(tmp_path / "run", data=data, objective=objective, reference=reference)
    assert not (tmp_path / "run").exists()


def test_scoring_takes_no_steps(model, data):
    with raises(ConfigError, "no_effect", key="reference.name", mentions=["'moving'", "'initial'"]):
        tiltlm.score(model=model, data=data, objective="dpo", **MOVING)
