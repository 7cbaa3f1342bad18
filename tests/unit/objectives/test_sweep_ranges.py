"""Every method of the catalogue has a range of settings that it accepts, with a source."""

import pytest

from tiltlm.objectives import CATALOG, build, knobs
from tiltlm.objectives.sweep_ranges import RANGES, sweep_range


def test_all_methods_have_one():
    assert set(RANGES) == set(CATALOG)


@pytest.mark.parametrize("name", CATALOG)
def test_every_setting_builds_and_the_default_is_within_the_range(name):
    found = sweep_range(name)
    for setting in found.settings:
        build(name, **setting)
    defaults = {k.name: k.default for k in knobs(name)}
    for knob, values in found.values.items():
        assert len(set(values)) == len(values)
        if isinstance(defaults[knob], float) and defaults[knob] > 0:
            assert min(values) / 3 <= defaults[knob] <= 3 * max(values)
    assert found.source
    assert all(knob in found.text for knob in found.values)


def test_a_method_of_ones_own_is_tuned_around_its_first_default(monkeypatch):
    def mine(beta: float = 0.3, alpha: float = 2.0):
        return CATALOG["dpo"](beta)

    monkeypatch.setitem(CATALOG, "mine", mine)
    assert sweep_range("mine").values == {"beta": pytest.approx((0.1, 0.3, 0.9))}
    monkeypatch.setitem(CATALOG, "mine", lambda: CATALOG["dpo"](0.1))
    assert sweep_range("mine").settings == [{}]
