"""Packs of a step against growing each pack's examples anew."""

import numpy as np
import pytest

from tiltlm.core import Example, Response, build_trees, token_ids
from tiltlm.training.packs import cut_into_packs


def some_examples(seed: int) -> list[Example]:
    """Few prompts and few responses, so that rows share both."""
    rng = np.random.default_rng(seed)
    prompts = [token_ids(rng.integers(0, 9, rng.integers(1, 30))) for _ in range(6)]
    answers = [Response(token_ids(rng.integers(0, 9, rng.integers(1, 20)))) for _ in range(8)]
    return [
        Example(f"row {i}", prompts[rng.integers(6)], tuple(answers[k] for k in rng.integers(0, 8, rng.integers(1, 4))))
        for i in range(20)
    ]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_ranks", [1, 2, 7])
def test_a_pack_is_what_its_examples_grow_into(seed, num_ranks):
    examples = some_examples(seed)
    ranks = cut_into_packs(examples, 60, num_ranks)
    assert len({len(packs) for packs in ranks}) == 1
    counted = [pack for packs in ranks for pack in packs if pack.counted]
    assert sorted(e.id for pack in counted for e in pack.examples) == sorted(e.id for e in examples)
    for pack in (pack for packs in ranks for pack in packs):
        trees, slots = build_trees(pack.examples)
        assert slots == pack.slots
        assert [(t.prompt_ids.tolist(), [r.key for r in t.responses]) for t in trees] == [
            (t.prompt_ids.tolist(), [r.key for r in t.responses]) for t in pack.trees
        ]
