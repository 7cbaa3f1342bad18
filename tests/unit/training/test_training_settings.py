"""Settings refuse what is impossible or would have no effect; the learning rate follows its rule."""

import pytest

from support.errors import raises
from tiltlm.core import ConfigError
from tiltlm.training.timetable import Timetable
from tiltlm.training.training_settings import TrainingSettings, default_learning_rate


@pytest.mark.parametrize(
    ("num_parameters", "lora", "rate"),
    [(7_000_000_000, False, 7e-7), (135_000_000, False, 5e-6), (260_000, False, 1e-4), (7_000_000_000, True, 7e-6),
     (260_000, True, 1e-3)],
)  # fmt: skip
def test_default_learning_rate(num_parameters, lora, rate):
    assert default_learning_rate(num_parameters, lora) == rate


@pytest.mark.parametrize(
    ("settings", "code", "mentions"),
    [
        ({"batch_size": 0}, "not_positive", ["0"]),
        ({"max_steps": 0}, "not_positive", ["0"]),
        ({"learning_rate": -1e-3}, "not_positive", ["-0.001"]),
        ({"learning_rate": float("nan")}, "not_positive", ["nan"]),
        ({"warmup_ratio": 1.0}, "out_of_range", ["1.0"]),
        ({"weight_decay": -0.1}, "negative", ["-0.1"]),
        ({"schedule": "linaer"}, "unknown_name", ["'linaer'", "linear"]),
        ({"trackers": ("tensorbord",)}, "unknown_name", ["tensorbord", "tensorboard"]),
        ({"early_stopping": 3}, "no_effect", ["training.best_metric"]),
        ({"best_direction": "min"}, "no_effect", ["training.best_metric"]),
    ],
)
def test_what_makes_no_sense_is_refused(settings, code, mentions):
    (name,) = settings
    with raises(ConfigError, code, key=f"training.{name}", mentions=mentions):
        TrainingSettings(**settings)


@pytest.mark.parametrize("settings", [{"best_metric": "eval_loss"}, {"eval_every": 5}])
def test_settings_about_held_out_data_need_some(settings):
    (name,) = settings
    with raises(ConfigError, "needs_held_out", key=f"training.{name}"):
        TrainingSettings(**settings).check_held_out(0)
    TrainingSettings(**settings).check_held_out(1)


@pytest.mark.parametrize(("num_examples", "num_steps"), [(8, 3 * 4), (16, 3 * 8), (20, 25)])
def test_of_epochs_and_steps_the_shorter_counts(num_examples, num_steps):
    settings = TrainingSettings(num_epochs=3, max_steps=25, batch_size=2)
    assert Timetable(num_examples, "data", settings).num_steps == num_steps


@pytest.mark.parametrize(
    "settings",
    [{"warmup_ratio": 0.0}, {"weight_decay": 0.0}, {"max_grad_norm": None}, {"batch_size": 1}, {"max_steps": 1}],
)
def test_bounds_are_allowed(settings):
    (name,) = settings
    assert getattr(TrainingSettings(**settings), name) == settings[name]


@pytest.mark.parametrize(
    ("name", "direction", "lower"),
    [("eval_loss", None, True), ("eval_kl", None, True), ("eval_rewards/accuracies", None, False),
     ("eval_rewards/margins", "min", True)],
)  # fmt: skip
def test_direction_of_the_best_metric(name, direction, lower):
    assert TrainingSettings(best_metric=name, best_direction=direction).lower_is_better is lower
