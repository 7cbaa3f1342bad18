"""Two processes: gradients through the wrapped root equal those of one process over all of the data."""

import gc
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import transformers
from torch.nn.parallel import DistributedDataParallel

from tiltlm.core.example import Response, token_ids
from tiltlm.core.forest import Tree, pack_trees
from tiltlm.logprobs.checkpointing import enable_checkpointing
from tiltlm.logprobs.policy import PolicyModule


def make_module(tied: bool, checkpointing: bool, seed: int = 0) -> PolicyModule:
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=tied, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).double().train()
    if checkpointing:
        enable_checkpointing(model)
    return PolicyModule(model)


def make_trees() -> list[Tree]:
    rng = np.random.default_rng(0)

    def draw(length: int):
        return token_ids(rng.integers(3, 61, length))

    return [Tree(draw(p), (Response(draw(a)), Response(draw(b)))) for p, a, b in ((7, 5, 1), (3, 2, 6))]


def loss(module, trees, compared: bool = False):
    """Return a loss of log-probabilities, and with `compared` also of divergences to a reference."""
    forest = pack_trees(trees)
    if not compared:
        return module(forest).seq_logps.square().sum()
    responses = module(forest, frozenset({"ref_kls"}), make_module(False, False, seed=1).states(forest))
    return responses.seq_logps.square().sum() + 10 * responses.extra("ref_kls").sum()


CASES = {
    "tied": (True, False),
    "untied, checkpointing": (False, True),
    "beside a reference": (True, True),
}


def work(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    for name, case in CASES.items():
        module = DistributedDataParallel(make_module(*case))
        share = loss(module, make_trees()[rank : rank + 1], "reference" in name)
        (2 * share).backward()  # DDP averages over processes
        torch.save([p.grad for p in module.parameters()], Path(folder) / f"{name} {rank}.pt")
    del module, share  # the process group must not outlive its own end in here: see `Ranks.leave`
    gc.collect()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work, args=(port, str(tmp_path)), nprocs=2)
    for name, case in CASES.items():
        module = make_module(*case)
        loss(module, make_trees(), "reference" in name).backward()
        first, second = (torch.load(tmp_path / f"{name} {rank}.pt") for rank in (0, 1))
        scale = max(float(p.grad.abs().max()) for p in module.parameters())
        for parameter, one, other in zip(module.parameters(), first, second, strict=True):
            assert torch.equal(one, other), name
            assert float((parameter.grad - one).abs().max()) <= 1e-6 * scale, name
