"""The 8-bit optimiser: near AdamW, its memory kept exactly, refused where it cannot run."""

import sys

import pytest
import torch
from torch import nn

from support.errors import raises
from tiltlm.core import ConfigError, RunError
from tiltlm.training.checkpoints import files as checkpoint
from tiltlm.training.checkpoints.files import Checkpoint
from tiltlm.training.checkpoints.tensors import optimizer_tensors, policy_tensors, restore_optimizer, restore_policy
from tiltlm.training.optim.optimizer import build_optimizer
from tiltlm.training.training_settings import TrainingSettings

KINDS = [
    "adamw_8bit",
    pytest.param(
        "paged_adamw_8bit",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
    ),
]


class Wide(nn.Module):
    """An embedding, a matrix of 131 thousand numbers (from 100 thousand on they are paged), and a bias."""

    def __init__(self, seed: int = 0, width: int = 64) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(128, width)
        self.linear = nn.Linear(width, 2048)
        self.to("cuda" if torch.cuda.is_available() else "cpu")


def take(policy, optimizer, steps):
    """Steps on a sum of squares whose curvature differs from number to number."""
    for _ in range(steps):
        optimizer.zero_grad()
        for p in policy.parameters():
            curvature = torch.arange(1, p.numel() + 1, device=p.device).view_as(p).sqrt()
            (p**2 * curvature).sum().backward()
        optimizer.step()


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_continues_bit_for_bit(tmp_path, kind):
    pytest.importorskip("bitsandbytes")
    settings = TrainingSettings(optimizer=kind, weight_decay=0.1)
    policy = Wide(seed=3)
    optimizer = build_optimizer(policy, settings, 1e-2)
    take(policy, optimizer, 3)
    tensors = optimizer_tensors(policy, optimizer)
    assert tensors["linear.weight.state1"].dtype == torch.uint8
    assert tensors["linear.weight.absmax1"].shape == (2048 * 64 // 256,)
    assert tensors["embedding.weight.state1"].dtype == torch.float32
    assert int(tensors["linear.bias.step"]) == 3
    path = checkpoint.commit(tmp_path, 3, Checkpoint(policy_tensors(policy), tensors, {}))
    kept, fresh = checkpoint.load(path), Wide(seed=9)
    again = build_optimizer(fresh, settings, 1e-2)
    restore_policy(fresh, kept.policy)
    restore_optimizer(fresh, again, kept.optimizer)
    for each in ((policy, optimizer), (fresh, again)):
        take(*each, 2)
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), fresh.parameters(), strict=True))


def test_it_follows_adamw():
    """Eight bits round the moments by a few percent, so that ten steps end within a tenth of the way."""
    pytest.importorskip("bitsandbytes")
    start = Wide(seed=1).linear.weight.detach().clone()
    ends = {}
    for kind in ("adamw", "adamw_8bit"):
        policy = Wide(seed=1)
        take(policy, build_optimizer(policy, TrainingSettings(optimizer=kind), 1e-3), 10)
        ends[kind] = policy.linear.weight.detach()
    apart, way = (ends["adamw_8bit"] - ends["adamw"]).norm(), (ends["adamw"] - start).norm()
    assert 0 < apart < 0.1 * way


def test_two_optimisers_share_no_overrides():
    """A setting of one optimiser must not reach the next one, whose parameter may have the same id."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    build_optimizer(Wide(), TrainingSettings(optimizer="adamw_8bit"), 1e-3)
    manager = bitsandbytes.optim.GlobalOptimManager.get_instance()
    assert not manager.pid2config
    other = build_optimizer(Wide(), TrainingSettings(optimizer="adamw_8bit"), 1e-3)
    assert len(other.mng.pid2config) == 1


def test_memory_of_another_optimiser_is_refused():
    pytest.importorskip("bitsandbytes")
    policy = Wide()
    plain = build_optimizer(policy, TrainingSettings(), 1e-3)
    take(policy, plain, 1)
    eight = build_optimizer(policy, TrainingSettings(optimizer="adamw_8bit"), 1e-3)
    with raises(RunError, "other_optimizer_state"):
        restore_optimizer(policy, eight, optimizer_tensors(policy, plain))


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with raises(
        ConfigError, "missing_dependency", key="training.optimizer", mentions=["bitsandbytes", "tiltlm[quant]"]
    ):
        build_optimizer(Wide(), TrainingSettings(optimizer="adamw_8bit"), 1e-3)


def test_a_device_without_pages_is_refused():
    with raises(
        ConfigError, "unsupported_device", key="training.optimizer", mentions=["paged_adamw_8bit", "cuda", "cpu"]
    ):
        build_optimizer(Wide().cpu(), TrainingSettings(optimizer="paged_adamw_8bit"), 1e-3)


@pytest.mark.parametrize(
    ("knobs", "code", "mentions"),
    [
        ({"optimizer": "adam"}, "unknown_name", ["adamw, adamw_8bit"]),
        ({"optimizer": "adamw_8bit", "parallel": "shard"}, "conflict", ["training.parallel=shard"]),
    ],
)
def test_what_cannot_be_is_refused(knobs, code, mentions):
    with raises(ConfigError, code, key="training.optimizer", mentions=mentions):
        TrainingSettings(**knobs)
