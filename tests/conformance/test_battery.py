"""Every method of the catalogue passes the battery; a method joins by its line in `support/objective_cases.py`."""

import pytest

from support.battery import Battery
from support.objective_cases import CASES
from tiltlm.objectives import CATALOG, knobs


def test_every_method_has_a_case():
    assert sorted(CATALOG) == sorted({case.name for case in CASES})


def test_every_knob_is_exercised():
    for name in CATALOG:
        exercised = {knob for case in CASES if case.name == name for knob in case.knobs}
        assert sorted(exercised) == sorted(k.name for k in knobs(name)), name


class TestCatalogue(Battery):
    @pytest.fixture(params=CASES, ids=lambda case: case.id)
    def case(self, request):
        return request.param
