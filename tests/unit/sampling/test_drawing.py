"""One token from logits: the inverse of the cumulative distribution, tempered and truncated."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from support.errors import raises
from tiltlm.core.errors import ConfigError
from tiltlm.core.example import token_ids
from tiltlm.sampling.drawing import SamplingSettings, draw, prompt_seeds, uniforms

PROBS = torch.tensor([0.1, 0.0, 0.4, 0.2, 0.3], dtype=torch.float64)
LOGITS = PROBS.log()  # −∞ where 0


def settings(**knobs: float) -> SamplingSettings:
    return SamplingSettings(1, **knobs)  # type: ignore[arg-type]


def drawn(u: list[float], **knobs: float) -> list[int]:
    uniform = torch.tensor(u, dtype=torch.float64)
    return draw(LOGITS.expand(len(u), -1), uniform, settings(**knobs)).tokens.tolist()


def test_u_picks_the_token_whose_interval_holds_it():
    assert drawn([0.0, 0.0999, 0.1001, 0.4999, 0.5001, 0.6999, 0.7001]) == [0, 0, 2, 2, 3, 3, 4]


def test_an_impossible_token_is_never_drawn():
    last = math.nextafter(1.0, 0.0)
    assert drawn([0.0, last]) == [0, 4]
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf]] * 2)
    assert draw(logits, torch.tensor([0.0, last], dtype=torch.float64), settings()).tokens.tolist() == [1, 1]


def test_log_probabilities_of_policy_and_behaviour():
    """T = ½ squares probabilities: 0.4² / (0.1² + 0.4² + 0.2² + 0.3²) = 0.16 / 0.30."""
    result = draw(LOGITS[None], torch.tensor([0.3], dtype=torch.float64), settings(temperature=0.5))
    assert result.tokens.item() == 2
    assert result.logps.item() == pytest.approx(math.log(0.4), abs=1e-6)
    assert result.behaviour_logps.item() == pytest.approx(math.log(0.16 / 0.30), abs=1e-6)


@pytest.mark.parametrize(
    ("knobs", "expected"),
    [
        ({"top_k": 2}, [0, 0, 4, 0, 3]),
        ({"top_k": 9}, [1, 0, 4, 2, 3]),
        ({"top_p": 0.35}, [0, 0, 1, 0, 0]),
        ({"top_p": 0.65}, [0, 0, 4, 0, 3]),
        ({"top_p": 0.75}, [0, 0, 4, 2, 3]),
        ({"top_p": 1.0}, [1, 0, 4, 2, 3]),
        ({"top_k": 3, "top_p": 0.7}, [0, 0, 4, 0, 3]),  # of 0.9: 0.4/0.9 + 0.3/0.9 = 0.78 ≥ 0.7
        ({"temperature": 2.0}, [0.1**0.5, 0, 0.4**0.5, 0.2**0.5, 0.3**0.5]),
        ({"min_p": 0.2}, [1, 0, 4, 2, 3]),  # 0.08 is the bound
        ({"min_p": 0.6}, [0, 0, 4, 0, 3]),  # 0.24
        ({"min_p": 1.0}, [0, 0, 1, 0, 0]),
        ({"temperature": 2.0, "min_p": 0.6}, [0, 0, 0.4**0.5, 0.2**0.5, 0.3**0.5]),  # √(0.2/0.4) = 0.71, √(0.1/0.4) = ½
        ({"top_p": 0.65, "min_p": 0.3}, [0, 0, 4, 0, 3]),  # alone, min_p would keep 0.2 too
        ({"top_p": 0.75, "min_p": 0.6}, [0, 0, 4, 0, 3]),  # top_p keeps 0.2 too: 0.4 + 0.3 < 0.75
    ],
)
def test_frequencies_are_those_of_the_truncated_distribution(knobs, expected):
    u = torch.rand(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = draw(LOGITS.expand(4000, -1), u, settings(**knobs))
    counts = np.bincount(result.tokens.numpy(), minlength=5)
    probs = np.array(expected) / np.sum(expected)
    assert not counts[probs == 0].any()
    if (probs > 0).sum() > 1:
        assert stats.chisquare(counts[probs > 0], 4000 * probs[probs > 0]).pvalue > 0.01
    torch.testing.assert_close(
        result.behaviour_logps.double().exp(), torch.from_numpy(probs)[result.tokens], atol=1e-6, rtol=0
    )


def test_min_p_keeps_what_the_other_truncations_keep_of_it():
    """Whatever order: p ≥ min_p · max p is a property of each token, and no truncation removes the largest."""
    logits = 3 * torch.randn(50, 40, generator=torch.Generator().manual_seed(0))
    u = torch.rand(50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    probs = logits.double().softmax(-1)
    kept = (probs >= 0.05 * probs.max(-1, keepdim=True).values) & (probs.argsort(-1).argsort(-1) >= 40 - 5)
    result = draw(logits, u, settings(top_k=5, min_p=0.05))
    expected = probs / (probs * kept).sum(-1, keepdim=True)
    assert kept.gather(-1, result.tokens[:, None]).all()
    assert 1 < kept.sum(-1).double().mean() < 5
    found = expected.gather(-1, result.tokens[:, None])[:, 0]
    torch.testing.assert_close(result.behaviour_logps.double().exp(), found, atol=1e-5, rtol=0)


def test_temperature_zero_is_the_most_probable():
    result = draw(LOGITS[None], torch.tensor([0.99], dtype=torch.float64), settings(temperature=0))
    assert result.tokens.tolist() == [2]
    assert result.behaviour_logps.tolist() == [0]
    assert result.logps.item() == pytest.approx(math.log(0.4), abs=1e-6)


def test_a_rare_token_of_a_large_vocabulary_keeps_its_probability():
    """A float32 running sum over 200,000 tokens would move the edges by more than this interval is wide."""
    size = 200_000
    logits = torch.zeros(1, size)
    logits[0, 150_000] = math.log(0.5)
    edges = torch.tensor([150_000.001, 150_000.499, 150_000.501], dtype=torch.float64) / (size - 0.5)
    tokens = draw(logits.expand(3, -1), edges, settings()).tokens.tolist()
    assert tokens == [150_000, 150_000, 150_001]


@pytest.mark.parametrize("size", [1, 127, 128, 129, 1000])
def test_blocks_change_nothing(size):
    """Compare with one running sum over the whole vocabulary, with tokens and whole blocks of probability 0."""
    generator = torch.Generator().manual_seed(size)
    logits = 3 * torch.randn(400, size, generator=generator)
    logits[
        :, (torch.rand(size, generator=generator) < 0.3).index_fill(0, torch.tensor([size // 2]), False)
    ] = -torch.inf
    logits[:, 256:512] = -torch.inf
    u = torch.rand(400, generator=generator, dtype=torch.float64)
    u[:2] = torch.tensor([0.0, math.nextafter(1.0, 0.0)], dtype=torch.float64)
    running = logits.log_softmax(-1).exp().double().cumsum(-1)
    expected = (running <= (u * running[:, -1])[:, None]).sum(-1)
    assert torch.equal(draw(logits, u, settings()).tokens, expected)


def test_seeds_go_with_content():
    a, b = token_ids([1, 2]), token_ids([1, 3])
    assert prompt_seeds(0, [a, b]) == prompt_seeds(0, [b, a])[::-1]
    assert len({*prompt_seeds(0, [a, a, b]), *prompt_seeds(1, [a])}) == 4


def test_a_number_depends_on_its_sample_and_position_alone():
    few, many = uniforms(5, range(3), 4), uniforms(5, range(200), 50)
    assert torch.equal(few, many[:3, :4])
    assert torch.equal(uniforms(5, range(7, 9), 50), many[7:9])
    assert ((many >= 0) & (many < 1)).all()
    assert len(many.unique()) == many.numel()
    assert stats.kstest(many.flatten().numpy(), "uniform").pvalue > 0.01
    for one, other in ((many[1:], many[:-1]), (many[:, 1:], many[:, :-1]), (many, uniforms(6, range(200), 50))):
        assert abs(np.corrcoef(one.flatten(), other.flatten())[0, 1]) < 0.03


@pytest.mark.parametrize(
    ("knobs", "code", "key"),
    [
        ({"max_new_tokens": 0}, "not_positive", "max_new_tokens"),
        ({"max_rows": 0}, "not_positive", "max_rows"),
        ({"top_k": 0}, "not_positive", "top_k"),
        ({"top_p": 0.0}, "out_of_range", "top_p"),
        ({"top_p": 1.1}, "out_of_range", "top_p"),
        ({"temperature": -1.0}, "negative", "temperature"),
        ({"temperature": math.nan}, "negative", "temperature"),
        ({"temperature": math.inf}, "negative", "temperature"),
        ({"top_p": math.nan}, "out_of_range", "top_p"),
        ({"min_p": 0.0}, "out_of_range", "min_p"),
        ({"min_p": 1.1}, "out_of_range", "min_p"),
        ({"temperature": 0.0, "min_p": 0.1}, "no_effect", "min_p"),
        ({"temperature": 0.0, "top_p": 0.9}, "no_effect", "top_p"),
        ({"temperature": 0.0, "top_k": 5}, "no_effect", "top_k"),
    ],
)
def test_impossible_settings_are_refused(knobs, code, key):
    with raises(ConfigError, code, key=f"sampling.{key}", mentions=[f"sampling.{next(iter(knobs))}"]):
        SamplingSettings(**{"max_new_tokens": 1, **knobs})
