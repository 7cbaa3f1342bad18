import pytest

from support.errors import raises
from tiltlm.core.errors import ConfigError
from tiltlm.labeling.project import MAX_OVERLAP, ProjectSettings


@pytest.mark.parametrize(
    ("values", "code", "key"),
    [
        ({"select": "randm"}, "unknown_name", "--select"),
        ({"overlap": 0}, "not_in_range", "--overlap"),
        ({"overlap": MAX_OVERLAP + 1}, "not_in_range", "--overlap"),
        ({"extra": -1}, "negative", "--extra"),
        ({"repeat_gap": -1}, "negative", "--repeat-gap"),
        ({"calibration": -1}, "negative", "--calibration"),
        ({"lease_minutes": 0}, "not_positive", "--lease-minutes"),
        ({"random_share": 1.01}, "not_in_range", "--random-share"),
        ({"gold_share": -0.1}, "not_in_range", "--gold-share"),
        ({"repeat_share": float("nan")}, "not_in_range", "--repeat-share"),
        ({"gold_share": 0.3, "repeat_share": 0.3}, "not_in_range", "--gold-share"),
        ({"skip_reasons": ()}, "empty", "--skip-reasons"),
    ],
)
def test_settings_that_cannot_be(values, code, key):
    with raises(ConfigError, code, key=key):
        ProjectSettings(**values)


def test_a_name_that_is_nearly_right_is_offered():
    with raises(ConfigError, "unknown_name", mentions=["uncertain"]):
        ProjectSettings(select="uncertan")


def test_settings_come_back_from_plain_values():
    settings = ProjectSettings(overlap=3, skip_reasons=("a", "b"), select="diverse")
    assert ProjectSettings.of(settings.as_dict()) == settings


def test_a_setting_of_a_newer_version_is_left_out():
    assert ProjectSettings.of({"overlap": 4, "later": True}) == ProjectSettings(overlap=4)
