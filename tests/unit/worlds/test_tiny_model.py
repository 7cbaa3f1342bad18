"""The bundled model has what the quickstart needs: every reward level, and short replies that end."""

from itertools import product

import numpy as np
import pytest
import torch

from tiltlm.core.example import Response, token_ids
from tiltlm.core.forest import Tree, pack_trees
from tiltlm.models import ModelSettings, Policy, load_policy
from tiltlm.sampling import SamplingSettings, sample
from tiltlm.worlds import LEVELS, TextWorld
from tiltlm.worlds.text import FAREWELLS, GREETINGS, PLACES, REMARKS

WORLD = TextWorld()


@pytest.fixture(scope="module")
def policy() -> Policy:
    assert (WORLD.model_path() / "model.safetensors").exists(), "run scripts/make_tiny_world.py"
    return load_policy(ModelSettings(path=str(WORLD.model_path())), device="cpu")


def prompt_ids(policy: Policy, prompt: str):
    return token_ids(policy.tokenizer(prompt)["input_ids"])


def test_it_is_small_and_nothing_is_pickled():
    files = {file.name: file.stat().st_size for file in WORLD.model_path().iterdir()}
    assert sum(files.values()) < 4e6
    assert {name.rsplit(".", 1)[1] for name in files} == {"json", "safetensors"}


def test_its_tokenizer_gives_every_text_back(policy):
    tokenizer = policy.tokenizer
    for row in WORLD.corpus(9, 300):
        text = row["prompt"] + row["completion"]
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert (
            ids
            == tokenizer(row["prompt"])["input_ids"]
            + tokenizer(row["completion"], add_special_tokens=False)["input_ids"]
        )
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.unk_token_id not in ids
    unseen = tokenizer("".join(WORLD.prompts("heldout")))["input_ids"]
    assert tokenizer.unk_token_id not in unseen


def best_replies(prompt: str) -> list[str]:
    """Half of the replies of the highest level: 3 greetings × 8 places × 2 of 4 remarks × 3 farewells."""
    name = prompt.removeprefix("Guest ").split(":")[0]
    thing = prompt.split(" my ")[1].split("?")[0]
    parts = product(GREETINGS, PLACES, sorted(set(REMARKS))[:2], FAREWELLS)
    return [f" {hello} {name}, your {thing} is in the {place}.{remark} {bye}" for hello, place, remark, bye in parts]


def test_the_best_level_has_three_percent_at_each_heldout_prompt(policy):
    """Exact, no sampling: the probabilities of 144 of the 288 best replies alone sum to more."""
    for prompt in WORLD.prompts("heldout"):
        replies = best_replies(prompt)
        assert {WORLD.reward(prompt, text) for text in (replies[0], replies[-1])} == {LEVELS[-1]}
        encoded = policy.tokenizer(replies, add_special_tokens=False)["input_ids"]
        responses = tuple(Response(token_ids([*ids, policy.end_token_id])) for ids in encoded)
        with torch.no_grad():
            logps = policy.module(pack_trees([Tree(prompt_ids(policy, prompt), responses)])).seq_logps
        assert logps.exp().sum() >= 0.03, prompt


def test_replies_are_short_end_by_themselves_and_reach_every_level(policy):
    prompts = WORLD.prompts("heldout")
    settings = SamplingSettings(max_new_tokens=40)
    drawn = sample(
        policy.module,
        [prompt_ids(policy, prompt) for prompt in prompts],
        24,
        settings,
        seed=0,
        end_token_ids=policy.end_token_ids,
    )
    flat = [s for samples in drawn for s in samples]
    assert np.mean([s.ended for s in flat]) >= 0.9
    assert np.mean([len(s.token_ids) for s in flat]) < 25
    rewards = [
        [WORLD.reward(p, policy.tokenizer.decode(s.token_ids, skip_special_tokens=True)) for s in samples]
        for p, samples in zip(prompts, drawn, strict=True)
    ]
    assert set(np.ravel(rewards)) == set(LEVELS)
    assert 2.0 < np.mean(rewards) < 2.6
