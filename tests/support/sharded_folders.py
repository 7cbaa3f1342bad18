"""One of two processes that load and save models in shards; started by test_sharded_folders.py.

The first process loads and saves the same in one process and writes what differs.
"""

import json
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tiltlm.core import ModelError
from tiltlm.distributed.parallelism import Parallelism
from tiltlm.distributed.ranks import Ranks
from tiltlm.distributed.sharding import Sharding
from tiltlm.distributed.wrapping import full_tensor, laid_out_as, reshard
from tiltlm.models import LoraSettings, ModelSettings, load_policy, load_scorer, save_policy, saving
from tiltlm.models.sharded.saving import write_weights
from tiltlm.reference import model_digest
from tiltlm.training.optim.optimizer import trainable

LOADERS = {"policy": load_policy, "scorer": load_scorer}


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a model folder."""
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def differing(one: Path, other: Path) -> list[str]:
    """Names of files and tensors that are not the same in two folders."""
    names = {file.name for file in one.iterdir()} ^ {file.name for file in other.iterdir()}
    for file in one.iterdir():
        if file.suffix != ".safetensors" and file.name not in names:
            names |= {file.name} if file.read_bytes() != (other / file.name).read_bytes() else set()
    own, others = weights_of(one), weights_of(other)
    names |= own.keys() ^ others.keys()
    return sorted(names | {name for name in own.keys() & others.keys() if not torch.equal(own[name], others[name])})


def settings_of(path: Path, lora: bool, adapter: Path | None) -> ModelSettings:
    new = LoraSettings(r=3, seed=5) if lora and adapter is None else None
    return ModelSettings(str(path), precision="float32", lora=new, adapter=None if adapter is None else str(adapter))


def move(policy, ranks: Ranks) -> None:
    """Change every trained weight, as training would; the same in all processes."""
    generator = torch.Generator().manual_seed(1)
    for parameter in trainable(policy.module).values():
        change = 0.1 * torch.randn(parameter.shape, generator=generator)
        parameter.data.add_(laid_out_as(change, parameter) if policy.sharding else change)


def compared(kind: str, path: Path, lora: bool, target: Path, sharding: Sharding, adapter: Path | None = None) -> dict:
    """What differs between a model of two processes and the same one of one process, and between their folders."""
    settings, ranks = settings_of(path, lora, adapter), sharding.ranks
    shared, alone = LOADERS[kind](settings, "cpu", sharding=sharding), LOADERS[kind](settings, "cpu")
    reshard(shared.module)
    whole = {name: full_tensor(parameter.detach()) for name, parameter in shared.module.named_parameters()}
    own = dict(alone.module.named_parameters())
    found = {
        "loaded": sorted(own.keys() ^ whole.keys()) + [n for n in own if n in whole and not whole[n].equal(own[n])],
        "digests": [model_digest(shared.module), model_digest(alone.module)],
    }
    for policy in (shared, alone):
        move(policy, ranks)
    for merge in (True, False) if lora else (True,):
        folders = [target / f"{who}-{merge}" for who in ("shared", "alone")]
        save_policy(shared, folders[0], merge)
        ranks.first(lambda folders=folders, merge=merge: save_policy(alone, folders[1], merge))
        found[f"saved, merged {merge}"] = ranks.first(lambda folders=folders: differing(*folders))
    return found


def in_several_files(path: Path, target: Path, sharding: Sharding) -> dict:
    """Whether a model that is written in several files is the one that was loaded."""
    policy = load_policy(settings_of(path, False, None), "cpu", sharding=sharding)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saving, "write_weights", partial(write_weights, file_size=10_000))
        save_policy(policy, target)
    return {"files": len(list(target.glob("model-*.safetensors"))), "loaded": differing_models(path, target)}


def differing_models(one: Path, other: Path) -> list[str]:
    """Names of weights that differ after plain transformers has loaded both folders."""
    from transformers import AutoModelForCausalLM

    own, others = (dict(AutoModelForCausalLM.from_pretrained(p).named_parameters()) for p in (one, other))
    return sorted(own.keys() ^ others.keys()) + [name for name in own if not torch.equal(own[name], others[name])]


def refusals(folder: Path, sharding: Sharding) -> dict[str, str]:
    """The code with which every process refuses a damaged model."""
    found = {}
    for name in ("incomplete", "not_finite"):
        try:
            load_policy(settings_of(folder / name, False, None), "cpu", sharding=sharding)
        except ModelError as error:
            found[name] = "/".join(sorted({str(code) for code in sharding.ranks.gather(error.code)}))
    return found


def main(folder: Path) -> None:
    ranks = Ranks.join(cpu=True)
    sharding = Sharding.of(Parallelism("shard"), ranks)
    results: dict[str, dict] = {}
    for kind in LOADERS:
        for tied in ("tied", "untied"):
            for lora in (False, True):
                target = folder / f"out-{kind}-{tied}-{lora}"
                results[f"{kind} {tied} lora={lora}"] = compared(kind, folder / tied, lora, target, sharding)
        earlier = folder / f"out-{kind}-tied-True" / "alone-False"
        target = folder / f"out-{kind}-continued"
        results[f"{kind} continued"] = compared(kind, folder / "tied", True, target, sharding, earlier)
    results["policy experts lora=False"] = compared("policy", folder / "experts", False, folder / "moe", sharding)
    several = {
        name: in_several_files(folder / name, folder / f"several-{name}", sharding) for name in ("tied", "experts")
    }
    refused = refusals(folder, sharding)
    if ranks.is_first:
        content = {"compared": results, "several files": several, "refused": refused}
        (folder / "results.json").write_text(json.dumps(content))
    ranks.leave()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
