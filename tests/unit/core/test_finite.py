"""NaN and infinities are found in any tensor, and large finite values are not taken for them."""

import math

import pytest
import torch

from tiltlm.core.finite import not_finite


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("place", [0, 4321, -1])
def test_one_bad_value_is_found_by_name(bad, dtype, place):
    tensors = {"good": torch.ones(3, dtype=dtype), "bad": torch.ones(100, 77, dtype=dtype)}
    tensors["bad"].view(-1)[place] = bad
    assert not_finite(tensors) == ["bad"]


def test_what_is_finite():
    huge, empty, whole = torch.full((9,), 3e38), torch.empty(0), torch.tensor([1, 2])
    assert not_finite({"huge": huge, "empty": empty, "whole": whole}) == []
    assert not_finite({}) == []
