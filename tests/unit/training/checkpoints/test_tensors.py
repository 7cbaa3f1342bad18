"""A checkpoint's tensors are those of the run: names of another model are refused, and nothing is copied."""

import pytest
import torch

from support.errors import raises
from support.toy_training import ToyPolicy
from tiltlm.core import RunError
from tiltlm.reference import Reference
from tiltlm.training.checkpoints.tensors import policy_tensors, restore_reference


class Moving(Reference):
    """A reference with weights of its own."""

    def __init__(self) -> None:
        self.own = {"layer.weight": torch.ones(2)}

    def tensors(self):
        return self.own


def test_a_moving_reference_takes_the_weights_of_the_checkpoint():
    reference = Moving()
    restore_reference(reference, {"layer.weight": torch.full((2,), 3.0)})
    assert reference.own["layer.weight"].tolist() == [3.0, 3.0]


@pytest.mark.parametrize(("reference", "name"), [(Moving(), "layer.weight"), (Reference(), "more")])
def test_a_reference_of_another_model_is_refused(reference, name):
    tensors = {} if name == "layer.weight" else {name: torch.zeros(1)}
    with raises(RunError, "other_model", mentions=["1", name]):
        restore_reference(reference, tensors)


def test_the_weights_are_not_copied():
    policy = ToyPolicy()
    assert policy_tensors(policy)["head.weight"].data_ptr() == policy.head.weight.data_ptr()
