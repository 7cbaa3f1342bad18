"""Loops of two processes that share the weights of the policy: by a server, by their own judgement, with a critic.

All commands run in one pair of processes, one after the other. Each ends as the command of one process does.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tiltlm
from support.chat_models import write_chat_model
from support.completions_server import serving_model
from support.launching import launch
from tiltlm.online.rounds import seed_of
from tiltlm.sampling.answers import read_answers
from tiltlm.worlds import TextWorld

pytest.importorskip("openai")
pytestmark = pytest.mark.long
SCRIPT = Path(__file__).parents[1] / "support" / "loop_ranks.py"
SHORT = {
    "loop.rounds": 2, "loop.prompts_per_round": 4, "sampling.max_new_tokens": 24, "sampling.max_rows": 4,
    "training.batch_size": 2, "training.learning_rate": 1e-3, "training.schedule": "constant",
    "training.warmup_ratio": 0.0, "model.precision": "float32",
}  # fmt: skip
SHARD = {"training.parallel": "shard"}
LOOPS = {
    "server": {"preset": "online_dpo", "judge": "gold"},
    "adapter": {"preset": "online_dpo", "judge": "gold", "model.lora.r": 4},
    "critic": {"preset": "ppo", "judge": "gold", "critic.value_learning_rate": 1e-2},
    "self": {
        "preset": "self_rewarding", "held_out_judge": "length", "unaudited": True, "data.as_chat": True,
        "training.batch_size": 4,
    },
}  # fmt: skip
"""Name → settings beside the short ones. Where the policy judges itself, a step has all examples of a round, because
their order depends on the digits of the scores."""
SYNC = {"server": "full", "adapter": "lora"}
TRAINED = {
    "objective": "dpo", "learning_rate": 1e-2, "batch_size": 16, "eval_fraction": 0.25, "model.precision": "float32",
    "evaluation.num_prompts": 2, "evaluation.num_samples": 2, "evaluation.max_new_tokens": 8,
}  # fmt: skip
NAMED = ("preset", "judge", "held_out_judge", "model", "data")
"""Settings that are options of the command."""
SEEDS = [seed_of("round 0", 0), seed_of("round 1", 0), 0]


@pytest.fixture(scope="module")
def inputs(model, tmp_path_factory) -> dict[str, dict]:
    """Return model and prompts of each loop."""
    folder = tmp_path_factory.mktemp("inputs")
    texts = {"world.jsonl": TextWorld().prompts("train")[:20]}
    texts["chat.jsonl"] = [f"Say something kind, number {k}." for k in range(6)]
    for name, prompts in texts.items():
        (folder / name).write_text("".join(json.dumps({"prompt": text}) + "\n" for text in prompts))
    world = {"model": model, "data": str(folder / "world.jsonl")}
    chat = {"model": write_chat_model(folder / "chat"), "data": str(folder / "chat.jsonl")}
    return {name: chat if name == "self" else world for name in LOOPS}


def command(of: str, output: Path, *flags: str, **settings) -> list[str]:
    """Return the arguments of a command; settings with dots and switches come last."""
    named = {key: settings.pop(key) for key in NAMED if key in settings}
    flags += ("--unaudited",) if settings.pop("unaudited", False) else ()
    options = [text for key, value in named.items() for text in (f"--{key.replace('_', '-')}", str(value))]
    return [of, *options, "--output", str(output), *flags, *(f"{key}={value}" for key, value in settings.items())]


@pytest.fixture(scope="module")
def together(inputs, data, tmp_path_factory):
    """Return the folder of the runs of two processes, how each command ended, and the server that they asked."""
    folder = tmp_path_factory.mktemp("together")
    dropped: list[str] = []

    def drop_once(request, number):
        """Keep the weights of the first round when those of the second come for the first time."""
        path = request.get("kwargs", {}).get("weights_path", "")
        server.drops_weights = "/server/" in path and "-0001-" in path and not dropped
        dropped.extend([path] * server.drops_weights)

    with serving_model(inputs["server"]["model"], seeds=SEEDS, fault=drop_once) as server:
        served = {name: {"engine.name": server.url, "engine.sync": sync} for name, sync in SYNC.items()}
        given = {name: {**inputs[name], **SHORT, **SHARD, **own, **served.get(name, {})} for name, own in LOOPS.items()}
        trained = {"model": inputs["server"]["model"], "data": data, **TRAINED, **served["server"]}
        commands = [
            command("loop", folder / "server", **given["server"]),
            command("loop", folder / "server", "--resume", **given["server"]),
            command("train", folder / "trained", **trained),
            command("loop", folder / "adapter", **given["adapter"]),
            command("loop", folder / "critic", **{**given["critic"], "loop.rounds": 1}),
            command("loop", folder / "critic", "--resume", **given["critic"]),
            command("loop", folder / "self", **given["self"]),
        ]
        (folder / "commands.json").write_text(json.dumps(commands))
        ended = launch([SCRIPT, folder], folder, TILTLM_CACHE=str(folder / "cache"))
    assert ended.codes == [0, 0], ended.err
    assert "UserWarning" not in ended.err[0]
    return folder, json.loads((folder / "ended.json").read_text()), server


def test_a_server_that_keeps_old_weights_is_refused_by_all_processes(together):
    _, ended, _ = together
    assert ended == [["stale_weights"] * 2, *([["", ""]] * 6)]


@pytest.mark.parametrize("name", LOOPS)
def test_two_processes_end_as_one(together, inputs, tmp_path, monkeypatch, name):
    """By a server also where it was refused and the loop resumed; with a critic also where it resumed."""
    monkeypatch.setattr("tiltlm.judging.language.question.MIN_MASS", 0.0)
    monkeypatch.setenv("TILTLM_CACHE", str(tmp_path / "cache"))
    alone = tiltlm.loop(output=tmp_path / "alone", progress=False, **inputs[name], **{**SHORT, **LOOPS[name]})
    both = together[0] / name
    for number, card in enumerate(alone.cards):
        found, expected = (folder / "rounds" / f"{number:04d}" for folder in (both, alone.path))
        rows = [read_answers(folder / "samples.jsonl.gz") for folder in (found, expected)]
        assert [(row.id, row.answers) for row in rows[0]] == [(row.id, row.answers) for row in rows[1]]
        theirs = json.loads((found / "card.json").read_text())
        assert theirs["num_examples"] == card.num_examples > 0
        assert theirs["loss"] == pytest.approx(card.loss, abs=1e-5)
        assert theirs["reward"]["estimate"] == pytest.approx(card.reward.estimate, rel=1e-5)
        kl = None if theirs["kl"] is None else theirs["kl"]["estimate"]
        assert kl == (None if card.kl is None else pytest.approx(card.kl.estimate, abs=1e-4))
        assert theirs["probe"] is None if name not in SYNC else theirs["probe"] < 1e-4
    models = [load_file(folder / "model" / "model.safetensors") for folder in (both, alone.path)]
    assert models[0].keys() == models[1].keys()
    for key, tensor in models[1].items():
        torch.testing.assert_close(models[0][key], tensor, atol=1e-4, rtol=0, msg=key)


def test_replicas_that_train_write_the_weights_for_a_server_once(together):
    folder, _, server = together
    assert sum(path.is_relative_to(folder / "trained") for path in server.loaded) == 2
    assert json.loads((folder / "trained" / "report.json").read_text())["samples"] is not None
