"""Settings refuse what is impossible or would have no effect; the learning rate follows its rule."""

import pytest

from tiltlm.core import ConfigError
from tiltlm.training.settings import TrainingSettings, default_learning_rate


@pytest.mark.parametrize(
    ("num_parameters", "lora", "rate"),
    [(7_000_000_000, False, 7e-7), (135_000_000, False, 5e-6), (260_000, False, 1e-4), (7_000_000_000, True, 7e-6),
     (260_000, True, 1e-3)],
)  # fmt: skip
def test_default_learning_rate(num_parameters, lora, rate):
    assert default_learning_rate(num_parameters, lora) == rate


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"max_steps": 0}, "max_steps is 0"),
        ({"learning_rate": -1e-3}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"warmup_ratio": 1.0}, "warmup_ratio"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"schedule": "linaer"}, "'linaer'; known: linear"),
        ({"trackers": ("tensorbord",)}, "tensorbord.*known: tensorboard"),
        ({"early_stopping": 3}, "early_stopping has no effect without training.best_metric"),
        ({"best_direction": "min"}, "no effect"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, named):
    with pytest.raises(ConfigError, match=named):
        TrainingSettings(**settings)


@pytest.mark.parametrize("settings", [{"best_metric": "eval_loss"}, {"eval_every": 5}])
def test_settings_about_held_out_data_need_some(settings):
    with pytest.raises(ConfigError, match="held-out"):
        TrainingSettings(**settings).check_held_out(0)
    TrainingSettings(**settings).check_held_out(1)


def test_epochs_and_steps_may_both_be_given():
    TrainingSettings(num_epochs=3, max_steps=10)


@pytest.mark.parametrize(
    ("name", "direction", "lower"),
    [("eval_loss", None, True), ("eval_kl", None, True), ("eval_rewards/accuracies", None, False),
     ("eval_rewards/margins", "min", True)],
)  # fmt: skip
def test_direction_of_the_best_metric(name, direction, lower):
    assert TrainingSettings(best_metric=name, best_direction=direction).lower_is_better is lower
