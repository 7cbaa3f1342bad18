"""Devices are read by name, and settings that fit are found for those that do not."""

import pytest

from support.errors import raises
from tiltlm.core import ConfigError
from tiltlm.costs.alternatives import alternatives
from tiltlm.costs.devices import GPUS, parse_gpus, this_machine
from tiltlm.costs.estimate import Reads, Workload, costs_of
from tiltlm.costs.lengths import typical_examples
from tiltlm.costs.skeleton import Blueprint, config_of
from tiltlm.models.model_settings import ModelSettings
from tiltlm.training.training_settings import TrainingSettings

SHAPE = {
    "vocab_size": 32_000, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22,
    "num_attention_heads": 32, "num_key_value_heads": 4,
}  # fmt: skip


def workload(device="l4", processes=1, **training):
    return Workload(
        Blueprint(config_of("llama", SHAPE), ModelSettings("none"), "bf16"),
        TrainingSettings(batch_size=16, **training),
        typical_examples((300, 200, 200), 32),
        "x",
        "test",
        0,
        Reads(),
        GPUS[device],
        processes,
        0,
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [("8xH100", (8, "h100")), ("H200", (1, "h200")), ("2 x 4090", (2, "rtx4090")), ("cpu", (1, "cpu"))],
)
def test_devices_are_read_by_name(text, expected):
    assert parse_gpus(text) == expected


@pytest.mark.parametrize("text", ["8xH1000", "", "xH100", "-2xH100"])
def test_an_unknown_device_is_refused(text):
    with raises(ConfigError, code="unknown_name", key="gpus"):
        parse_gpus(text)


def test_no_devices_are_refused():
    with raises(ConfigError, code="not_positive", key="gpus"):
        parse_gpus("0xH100")


def test_this_machine_is_measured_and_shared():
    two = this_machine(2, lambda: 5)
    assert two.is_measured
    assert two.overhead == 5
    assert two.full_peak > 1e8
    assert two.memory <= this_machine(1, lambda: 5).memory // 2


@pytest.mark.slow
def test_settings_that_fit_are_found():
    own = workload()
    costs = costs_of(own)
    assert not costs.fits  # 1.1 billion parameters × 16 bytes and packs of 4,096 tokens, on 24 GB
    found = alternatives(own, costs.plan.longest)
    assert found
    assert all(one.costs.fits for one in found)
    assert any("model.gradient_checkpointing=true" in one.changes for one in found)
    first = found[0].costs.workload
    assert costs_of(first).memory.peak == found[0].costs.memory.peak
