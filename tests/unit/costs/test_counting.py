"""What is counted without memory equals what happens with memory; a deep model is continued along a line."""

import gc

import pytest
import torch
from transformers import AutoModelForCausalLM

from support.errors import raises
from tiltlm.core import ConfigError
from tiltlm.core.forest import pack_trees
from tiltlm.costs.counting import count, count_parameters
from tiltlm.costs.heap import ALIGNMENT, Heap
from tiltlm.costs.lengths import PackSize, parse_lengths, plan_of, typical_examples
from tiltlm.costs.memory import heap_of
from tiltlm.costs.sharing import Sharing
from tiltlm.costs.skeleton import Blueprint, config_of
from tiltlm.costs.trace import Event, traced
from tiltlm.distributed.parallelism import Parallelism
from tiltlm.logprobs.selfcheck import check_bytes, choose_layout
from tiltlm.models.model_settings import LoraSettings, ModelSettings
from tiltlm.training.checkpoints.tensors import optimizer_tensors
from tiltlm.training.optim.optimizer import build_optimizer
from tiltlm.training.training_settings import TrainingSettings

SHAPE = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip
ALONE = Sharing.of(Parallelism(), 1)


def blueprint(precision="float32", is_scorer=False, kind="llama", shape=SHAPE, **settings):
    return Blueprint(config_of(kind, shape), ModelSettings("none", **settings), precision, is_scorer)


def plan(lengths=(40, 20, 30), rows=8, processes=1, **settings):
    examples = typical_examples(lengths, rows)
    return plan_of(examples, "x", TrainingSettings(batch_size=rows, **settings), processes, 4, "test")


def run_for_real(made, trees):
    """The same pack on real tensors, noted by the same tracer."""
    policy = made.build()
    for p in policy.parameters():
        torch.nn.init.normal_(p, std=0.02)
    forest = pack_trees(trees)
    gc.collect()
    known = [*policy.parameters(), *policy.buffers()]
    return traced(lambda: policy(forest).token_logps.sum().backward(), made.vocabulary, known), policy


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gradient_checkpointing": True},
        {"lora": LoraSettings(r=4)},
        {"precision": "bf16"},
        {"shape": {**SHAPE, "tie_word_embeddings": True}},
        {"kind": "qwen2"},
    ],
    ids=["plain", "checkpointing", "lora", "bf16", "tied", "qwen2"],
)
def test_a_pack_without_memory_is_counted_as_one_with_memory(settings):
    made, trees = blueprint(**settings), plan().largest
    counted = count(made, trees, ALONE, on_cpu=True)
    real, policy = run_for_real(made, trees)
    assert counted.flops() == sum(o.flops for o in real.operations) > 0
    gradients = sum(p.grad.numel() * p.grad.element_size() for p in policy.parameters() if p.grad is not None)
    # Under checkpointing some masks and indices are still held too.
    assert gradients <= counted.whole.bytes_left <= 1.1 * gradients
    # Gradients of fake tensors are not added up in place, so a little more is counted.
    assert real.peak() * 0.99 <= counted.peak <= real.peak() * 1.1


def test_products_are_those_of_the_formula():
    trees = plan().largest
    size, width, inner, narrow = PackSize.of(trees), 64, 160, 32
    counted = count(blueprint(), trees, ALONE, on_cpu=True)
    layer = 2 * width * width + 2 * width * narrow + 3 * width * inner
    unread = sum(len(tree.prompt_ids) - 1 for tree in trees) * (width * width + 3 * width * inner)
    body = 6 * (3 * layer * size.tokens - unread)
    assert counted.flops("body") == pytest.approx(body, rel=0.02)
    assert counted.flops("head") == 6 * width * 512 * size.targets
    assert counted.flops("attention") > 12 * 3 * width * size.attended  # a masked square is computed whole


@pytest.mark.parametrize(
    ("precision", "checkpointing", "processes"), [("float32", False, 1), ("bf16", True, 1), ("float32", True, 4)]
)
def test_a_deep_model_is_continued_along_a_line(precision, checkpointing, processes):
    made = blueprint(precision, shape={**SHAPE, "num_hidden_layers": 12}, gradient_checkpointing=checkpointing)
    sharing = Sharing.of(Parallelism("shard" if processes > 1 else "replicate"), processes)
    trees = plan().largest
    for backward in (True, False):
        continued = count(made, trees, sharing, on_cpu=False, backward=backward)
        whole = count(made, trees, sharing, on_cpu=True, backward=backward)
        assert continued.whole is None
        assert continued.peak == pytest.approx(whole.peak, rel=0.05)
        assert continued.flops() == pytest.approx(whole.flops(), rel=1e-6)


def test_a_process_of_many_holds_its_share():
    trees = plan().largest
    made = blueprint()
    alone, parameters = count(made, trees, ALONE, on_cpu=True), count_parameters(made)
    shared = count(made, trees, Sharing.of(Parallelism("shard"), 4), on_cpu=True)
    padding = 4 * 4 * len(parameters.sizes) * 64  # dimension 0 is padded to a multiple of the shards
    assert shared.whole.bytes_left <= alone.whole.bytes_left / 4 + padding


def test_parameters_are_those_of_the_model():
    for settings in ({}, {"lora": LoraSettings(r=4)}, {"is_scorer": True}):
        made = blueprint(**settings)
        policy = made.build()
        counted = count_parameters(made)
        assert counted.total == sum(p.numel() for p in policy.parameters())
        assert counted.trained == sum(p.numel() for p in policy.parameters() if p.requires_grad)


def test_the_state_of_the_optimiser_is_what_it_allocates():
    pytest.importorskip("bitsandbytes")
    for kind in ("adamw", "adamw_8bit"):
        made = blueprint(shape={**SHAPE, "hidden_size": 128})
        policy = made.build()
        optimizer = build_optimizer(policy, TrainingSettings(optimizer=kind), 1e-6)
        for p in policy.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
        held = sum(t.numel() * t.element_size() for t in optimizer_tensors(policy, optimizer).values())
        assert count_parameters(made).state_bytes(kind) == pytest.approx(held, rel=0.02)


def test_the_heap_uses_the_smallest_gap_and_joins_gaps():
    heap = Heap()
    for key, size in enumerate((1000, 5000, 1000, 3000, 1000)):
        heap.allocate(key, size)
    top = heap.top
    heap.free(1)
    heap.free(3)
    heap.allocate("small", 2500)  # into the gap of 3,000
    heap.allocate("large", 4500)
    assert heap.top == top
    heap.free("small")
    heap.free(2)  # now the gap before and the gap behind are one
    heap.free("large")
    heap.allocate("joined", 8000)
    assert heap.top == top
    heap.allocate("more", 8000)
    assert top + 8000 <= heap.top <= top + 8000 + 2 * ALIGNMENT


def test_the_heap_holds_at_least_what_is_allocated_at_one_time():
    trees = plan().largest
    made = blueprint()
    counted = count(made, trees, ALONE, on_cpu=True)
    heap = Heap()
    heap.run(counted.whole.events, 0)
    assert counted.peak <= heap.top <= 1.5 * counted.peak
    parameters = count_parameters(made)
    held = heap_of(counted.whole, parameters, "adamw", ALONE, packs=2)
    assert held.top >= counted.later_peak + parameters.trained_bytes * 3


def test_a_trace_knows_what_is_left():
    events = [Event(1, 100), Event(2, 50), Event(1, 0), Event(3, 70)]
    trace = traced(lambda: None, 2)
    trace.events[:] = events
    assert trace.peak() == 150
    assert trace.bytes_left == 120
    assert trace.peak(drop_left=True) == 150 - 0


def test_the_packs_are_the_trainers_own():
    made = plan((100, 50, 50), rows=10, processes=2, max_tokens=450)
    assert made.packs_per_step == 3  # five trees of 198 tokens a process, two a pack
    assert made.tokens_per_step == 10 * 198
    assert made.longest == 198
    assert sum(tree.num_tokens for tree in made.largest) == 2 * 198


def test_lengths_are_read():
    assert parse_lengths("10,20,30") == (10, 20, 30)
    for text in ("10", "a,b", "10,-1", ""):
        with raises(ConfigError, code="wrong_type", key="tokens"):
            parse_lengths(text)


def test_the_check_of_the_layout_needs_what_is_counted():
    """Weights are most of this model, so activations of the check are small beside its copy and gradients."""
    shape = SHAPE | {"hidden_size": 512, "intermediate_size": 2048}
    model = AutoModelForCausalLM.from_config(config_of("llama", shape)).eval()
    own = list(model.parameters())
    trace = traced(lambda: choose_layout(model), SHAPE["vocab_size"], own)
    assert check_bytes(own) == 24 * sum(p.numel() for p in own)
    assert check_bytes(own) == pytest.approx(trace.peak(), rel=0.15)
