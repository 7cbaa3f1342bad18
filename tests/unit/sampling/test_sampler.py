"""Sampling compared with plain forwards, known distributions, and the same prompts in other batches."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from scipy import stats

from support.errors import has_event, raises
from tiltlm.core.errors import ConfigError, NumericsError
from tiltlm.core.example import TokenIds, token_ids
from tiltlm.logprobs.plain import separate_logps
from tiltlm.logprobs.policy import PolicyModule
from tiltlm.sampling import Sampled, SamplingSettings, sample
from tiltlm.sampling.decoding import LOOK_EVERY, pads_exactly
from tiltlm.sampling.sampler import _batches

VOCAB = 40
END = 3
SMALL = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA = transformers.LlamaConfig(**SMALL, intermediate_size=48, num_key_value_heads=2)
CONFIGS = {
    "llama": LLAMA,
    "mistral": transformers.MistralConfig(**SMALL, intermediate_size=48, num_key_value_heads=2, sliding_window=5),
    "gemma2": transformers.Gemma2Config(
        **SMALL, intermediate_size=48, num_key_value_heads=2, head_dim=8, sliding_window=5
    ),
    "gpt2": transformers.GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=48),
    "lfm2": transformers.Lfm2Config(
        **SMALL, intermediate_size=48, num_key_value_heads=2, layer_types=["conv", "full_attention"]
    ),
}


def build(config: transformers.PretrainedConfig, seed: int = 0) -> PolicyModule:
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # far from uniform, or an error would hide
        model.get_output_embeddings().weight.mul_(8)
    return PolicyModule(model.eval(), layout="padded")


@pytest.fixture(scope="module")
def policy() -> PolicyModule:
    return build(LLAMA)


def prompts(*lengths: int) -> list[TokenIds]:
    rng = np.random.default_rng(1)
    return [token_ids(rng.integers(4, VOCAB, length)) for length in lengths]


def texts(samples: list[list[Sampled]]) -> list[list[tuple[int, ...]]]:
    return [[tuple(s.token_ids.tolist()) for s in group] for group in samples]


SETTINGS = SamplingSettings(max_new_tokens=12)
SEED = {"seed": 7, "end_token_ids": [END]}


@pytest.mark.parametrize("family", CONFIGS)
def test_log_probabilities_are_those_of_a_plain_forward(family):
    policy = build(CONFIGS[family])
    asked = prompts(6, 7, 8, 8, 11)
    samples = sample(policy, asked, 5, SamplingSettings(12, temperature=1.3), **SEED)
    assert {len(s.token_ids) for group in samples for s in group} >= {12}
    for prompt, group in zip(asked, samples, strict=True):
        for s in group:
            with torch.no_grad(), policy.stock_attention():
                logps = separate_logps(policy.model, prompt, s.response)
            np.testing.assert_allclose(s.token_logps, logps.numpy(), atol=1e-4, rtol=0)


def test_what_is_drawn_follows_the_model():
    """Joint frequencies of the first two tokens against their exact probabilities: all 36 cells of a tiny model."""
    config = transformers.LlamaConfig(**{**SMALL, "vocab_size": 6}, intermediate_size=48)
    policy = build(config, seed=3)
    prompt = token_ids([1, 2, 4])
    drawn = sample(policy, [prompt], 4000, SamplingSettings(2), seed=0, end_token_ids=[])[0]
    with torch.no_grad(), policy.stock_attention():
        first = policy.model(torch.tensor([[1, 2, 4]])).logits[0, -1].softmax(-1)
        second = policy.model(torch.tensor([[1, 2, 4, t] for t in range(6)])).logits[:, -1].softmax(-1)
    expected = (first[:, None] * second).double().flatten()
    counts = np.bincount([6 * s.token_ids[0] + s.token_ids[1] for s in drawn], minlength=36)
    likely = expected.numpy() > 5 / 4000
    assert likely.sum() > 12
    observed = np.append(counts[likely], counts[~likely].sum())
    wanted = np.append(expected.numpy()[likely], expected.numpy()[~likely].sum()) * 4000
    assert stats.chisquare(observed, wanted * 4000 / wanted.sum()).pvalue > 0.01


class Renamed(transformers.LlamaForCausalLM):
    """A model of transformers 5.24 or newer, whose cache has another name in calls and outputs."""

    def forward(self, input_ids, cache=None, use_cache=None, attention_mask=None, position_ids=None, **rest):
        assert "past_key_values" not in rest
        placed = {"attention_mask": attention_mask, "position_ids": position_ids}
        output = super().forward(input_ids, past_key_values=cache, use_cache=use_cache, **placed, **rest)
        return SimpleNamespace(logits=output.logits, cache=output.past_key_values)


def test_a_cache_by_its_new_name(policy, caplog):
    torch.manual_seed(0)
    renamed = Renamed(policy.model.config).eval()
    renamed.load_state_dict(policy.model.state_dict())
    asked = prompts(5, 9)
    found = sample(PolicyModule(renamed, layout="padded"), asked, 3, SETTINGS, **SEED)
    assert texts(found) == texts(sample(policy, asked, 3, SETTINGS, **SEED))
    assert not has_event(caplog, "sampling_without_cache")


def test_a_seed_is_a_result(policy):
    asked = prompts(5, 6)
    once, again = (sample(policy, asked, 4, SETTINGS, **SEED) for _ in range(2))
    assert texts(once) == texts(again)
    assert texts(once) != texts(sample(policy, asked, 4, SETTINGS, seed=8, end_token_ids=[END]))


def test_samples_of_a_prompt_do_not_depend_on_the_batch(policy):
    asked = prompts(5, 9, 6, 14, 7, 5)
    together = texts(sample(policy, asked, 4, SETTINGS, **SEED))
    assert len(set(map(str, together))) == len(asked)
    assert together[::-1] == texts(sample(policy, asked[::-1], 4, SETTINGS, **SEED))
    assert together == [texts(sample(policy, [p], 4, SETTINGS, **SEED))[0] for p in asked]
    for max_rows in (1, 3, 8):
        other = SamplingSettings(12, max_rows=max_rows)
        assert together == texts(sample(policy, asked, 4, other, **SEED))


def test_more_or_longer_samples_change_none(policy):
    """The first tokens of a sample depend on prompt, index and seed alone."""
    asked = prompts(5, 9, 6)
    whole = texts(sample(policy, asked, 5, SETTINGS, **SEED))
    assert [group[:2] for group in whole] == texts(sample(policy, asked, 2, SETTINGS, **SEED))
    for length in (1, 3, 11):
        cut = texts(sample(policy, asked, 5, SamplingSettings(length), **SEED))
        assert cut == [[text[:length] for text in group] for group in whole]


def test_rare_checks_change_nothing(policy, monkeypatch):
    """Rows that have ended continue until the next check, as on a device. Their further tokens are not read."""
    asked = prompts(4, 5, 6)
    expected = sample(policy, asked, 20, SETTINGS, **SEED)
    monkeypatch.setitem(LOOK_EVERY, "cpu", 5)
    found = sample(policy, asked, 20, SETTINGS, **SEED)
    assert texts(found) == texts(expected)
    assert {s.ended for group in found for s in group} == {True, False}
    for a, b in zip(*([s for group in drawn for s in group] for drawn in (found, expected)), strict=True):
        assert a.ended == b.ended
        np.testing.assert_allclose(a.token_logps, b.token_logps, atol=1e-5, rtol=0)


def test_models_that_pad_exactly():
    """Attention with and without windows is exact. lfm2 has recurrent states, which would read the padding."""
    found = {}
    for family, config in CONFIGS.items():
        policy = build(config)
        with torch.no_grad(), policy.stock_attention():
            found[family] = pads_exactly(policy, prompts(4, 9))
    assert found == {"llama": True, "mistral": True, "gemma2": True, "gpt2": True, "lfm2": False}


def test_a_model_that_reads_its_padding_is_found(policy):
    """Its forward accepts a mask and ignores it."""
    broken = build(LLAMA)
    forward = broken.model.forward

    def without_mask(input_ids, attention_mask=None, position_ids=None, **keywords):
        return forward(input_ids, position_ids=position_ids, **keywords)

    broken.model.forward = without_mask
    with torch.no_grad(), broken.stock_attention():
        assert not pads_exactly(broken, prompts(4, 9))
    asked = prompts(4, 9)
    assert texts(sample(broken, asked, 3, SETTINGS, **SEED)) == texts(sample(policy, asked, 3, SETTINGS, **SEED))


def test_padding_never_doubles_a_batch():
    asked = prompts(10, 20, 33, 31, 90)
    mixed, equal = ([members for members, _ in _batches(asked, 2, SETTINGS, m)] for m in (True, False))
    assert mixed == [[0, 1, 3, 2], [4]]  # with 12 new ones, 142 tokens need 180 with padding; 5 · 102 is above 2 · 244
    assert equal == [[0], [1], [3], [2], [4]]


def test_a_prompt_that_occurs_again_draws_anew(policy):
    (prompt,) = prompts(5)
    first, second = texts(sample(policy, [prompt, prompt], 4, SETTINGS, **SEED))
    assert first != second


def test_responses_end_with_the_end_token_or_are_cut(policy):
    samples = sample(policy, prompts(4, 5, 6), 60, SETTINGS, **SEED)
    flat = [s for group in samples for s in group]
    assert {s.ended for s in flat} == {True, False}
    for s in flat:
        assert s.ended == (s.token_ids[-1] == END)
        assert END not in s.token_ids[:-1]
        assert s.ended or len(s.token_ids) == 12
        assert len(s.token_logps) == len(s.behaviour_logps) == len(s.token_ids)
        assert s.response.token_ids is s.token_ids
        assert s.response.ended is s.ended


def test_any_of_several_end_tokens_ends(policy):
    samples = sample(policy, prompts(4), 60, SETTINGS, seed=0, end_token_ids=[END, 9, 9, 20])
    last = {int(s.token_ids[-1]) for s in samples[0] if s.ended}
    assert last == {END, 9, 20}


def test_one_sample_of_one_token(policy):
    samples = sample(policy, prompts(1), 1, SamplingSettings(1), **SEED)
    assert [len(group) for group in samples] == [1]
    assert len(samples[0][0].token_ids) == 1
    assert sample(policy, [], 1, SETTINGS, **SEED) == []


def test_temperature_zero_takes_the_most_probable(policy):
    asked = prompts(5, 7)
    samples = sample(policy, asked, 2, SamplingSettings(6, temperature=0), seed=0, end_token_ids=[])
    with policy.stock_attention():
        for prompt, group in zip(asked, samples, strict=True):
            ids = prompt.tolist()
            for _ in range(6):
                ids.append(int(policy.model(torch.tensor([ids])).logits[0, -1].argmax()))
            assert texts([group]) == [[tuple(ids[len(prompt) :])] * 2]
            assert not group[0].behaviour_logps.any()
            assert (group[0].token_logps < 0).any()


def test_behaviour_is_the_policy_where_nothing_is_tempered(policy):
    (exact,), (tempered,) = (
        sample(policy, prompts(5), 1, SamplingSettings(4, temperature=t), **SEED)[0] for t in (1.0, 0.5)
    )
    np.testing.assert_array_equal(exact.token_logps, exact.behaviour_logps)
    assert (tempered.token_logps != tempered.behaviour_logps).all()


def test_leaves_the_policy_as_it_was(policy):
    policy.train().model.eval()
    attention = policy.config._attn_implementation
    sample(policy, prompts(3, 9), 2, SETTINGS, **SEED)
    assert policy.training
    assert not policy.model.training
    assert policy.config._attn_implementation == attention
    policy.model(torch.tensor([[1, 2]])).logits.sum().backward()  # no inference-mode tensor is left behind
    policy.zero_grad()


def test_progress_goes_on_within_a_batch(policy):
    """A batch can take minutes: it is reported from its first token on."""
    seen = []
    settings = SamplingSettings(6)
    groups = sample(policy, prompts(3, 3), 2, settings, **SEED, progress=lambda done, of: seen.append((done, of)))
    assert seen[0] == (0, 2 * 2 * 6)
    assert seen[-1] == (24, 24)
    lengths = [len(s.token_ids) for group in groups for s in group if not s.ended] or [0]
    assert max(lengths) == 6, "one sample is cut, so decoding has all its steps"
    ended = [len(s.token_ids) if s.ended else 7 for group in groups for s in group]
    after = [sum(6 if end <= step else step for end in ended) for step in range(1, 6)]
    assert [done for done, _ in seen[1:-1]] == after


def test_an_adapter_is_part_of_the_policy():
    peft = pytest.importorskip("peft")
    plain = build(LLAMA)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    adapted = PolicyModule(peft.get_peft_model(build(LLAMA).model, config), layout="padded")
    (prompt,) = prompts(5)
    s = sample(adapted, [prompt], 1, SETTINGS, **SEED)[0][0]
    with torch.no_grad():
        with adapted.stock_attention():
            logps = separate_logps(adapted.model, prompt, s.response)
        base = separate_logps(plain.model, prompt, s.response)
    np.testing.assert_allclose(s.token_logps, logps.numpy(), atol=1e-4, rtol=0)
    assert (logps - base).abs().max() > 1e-2


def test_a_model_without_such_a_cache_is_read_again_and_said(caplog):
    mamba = transformers.MambaConfig(
        vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, state_size=4, use_mambapy=False
    )
    policy = build(mamba)
    asked = prompts(4, 6)
    with caplog.at_level(logging.WARNING, logger="tiltlm"):
        samples = sample(policy, asked, 6, SETTINGS, **SEED)
    assert has_event(caplog, "sampling_without_cache", model="MambaForCausalLM")
    for prompt, group in zip(asked, samples, strict=True):
        for s in group:
            with torch.no_grad():
                logps = separate_logps(policy.model, prompt, s.response)
            np.testing.assert_allclose(s.token_logps, logps.numpy(), atol=1e-4, rtol=0)


def test_no_room_is_an_error():
    with raises(ConfigError, "too_long", key="sampling.max_new_tokens", row="prompt 1", mentions=["40", "48"]):
        sample(build(CONFIGS["gpt2"]), prompts(36, 40), 1, SETTINGS, **SEED)


def test_wrong_use_is_an_error(policy):
    with raises(ConfigError, "empty", key="prompts", row="prompt 1"):
        sample(policy, [*prompts(3), token_ids([])], 1, SETTINGS, **SEED)
    with raises(ConfigError, "not_positive", key="n", mentions=["0"]):
        sample(policy, prompts(3), 0, SETTINGS, **SEED)


def test_nan_is_an_error():
    broken = build(LLAMA)
    with torch.no_grad():
        broken.model.get_input_embeddings().weight.fill_(torch.nan)
    with raises(NumericsError, "not_finite", mentions=["nan"]):
        sample(broken, prompts(3), 2, SETTINGS, **SEED)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_device_the_same_numbers_decide():
    """In float32, where rounding changes none of these few draws."""
    asked = prompts(4, 6, 9)
    here, there = (texts(sample(build(LLAMA).to(device), asked, 4, SETTINGS, **SEED)) for device in ("cpu", "cuda"))
    same = [a == b for mine, its in zip(here, there, strict=True) for a, b in zip(mine, its, strict=True)]
    assert sum(same) >= len(same) - 1


@pytest.mark.parametrize("lengths", [(4, 4), (3, 5)])
def test_a_configuration_that_asks_for_router_logits_changes_nothing(lengths):
    """Some models compute a loss of their routers then, which does not fit one new token after a cache."""
    drawn = []
    for output_router_logits in (True, False):
        config = transformers.MixtralConfig(
            **SMALL, intermediate_size=48, num_key_value_heads=2, num_local_experts=4,
            output_router_logits=output_router_logits,
        )  # fmt: skip
        found = sample(build(config), prompts(*lengths), 2, SamplingSettings(6), seed=0, end_token_ids=[END])
        drawn.append([s.token_ids.tolist() for of_prompt in found for s in of_prompt])
    assert drawn[0] == drawn[1]
