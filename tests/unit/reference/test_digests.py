"""Digests move with what moves a logit, and with nothing else."""

import pytest
import torch

from tiltlm.logprobs.policy import PolicyModule
from tiltlm.reference import base_digest, model_digest, numeric_path
from tiltlm.reference.digests import adapter_is_zero, adapter_tensors, base_tensors


def test_equal_weights_have_equal_digests(make):
    assert base_digest(make()) == base_digest(make()) == model_digest(make())
    assert base_digest(make()) != base_digest(make(seed=1))


def test_one_bit_of_one_weight_moves_the_digest(make):
    policy = make()
    before = base_digest(policy)
    weight = policy.model.model.layers[1].mlp.up_proj.weight
    with torch.no_grad():
        weight[3, 5] = torch.nextafter(weight[3, 5], torch.tensor(9.0))
    assert base_digest(policy) != before


def test_where_a_tensor_is_counts(make):
    policy = make(num_key_value_heads=4)
    before = base_digest(policy)
    attention = policy.model.model.layers[0].self_attn
    attention.q_proj.weight, attention.k_proj.weight = attention.k_proj.weight, attention.q_proj.weight
    assert base_digest(policy) != before


def test_precision_of_the_weights_counts(make):
    policy = make()
    before, path = base_digest(policy), numeric_path(policy)
    policy.model.bfloat16()
    assert base_digest(policy) != before
    assert numeric_path(policy) != path


@pytest.mark.parametrize(
    "change", [{"rms_norm_eps": 1e-3}, {"rope_parameters": {"rope_type": "default", "rope_theta": 5e3}}]
)
def test_configuration_that_moves_a_logit_counts(make, change):
    assert base_digest(make(**change)) != base_digest(make())


@pytest.mark.parametrize(
    "change",
    [{"use_cache": False}, {"attention_dropout": 0.1}, {"eos_token_id": 7}, {"_name_or_path": "elsewhere"}],
)
def test_configuration_that_moves_no_logit_does_not(make, change):
    assert base_digest(make(**change)) == base_digest(make())


def test_layout_and_attention_do_not_count(make):
    """Layouts are verified equal before they are used."""
    shared, padded = make(), PolicyModule(make().model, layout="padded")
    assert shared.config._attn_implementation != padded.config._attn_implementation
    assert base_digest(shared) == base_digest(padded)
    assert numeric_path(shared) == numeric_path(padded)


def test_numeric_path_names_precision_device_and_versions(make):
    path = numeric_path(make())
    assert path.startswith("float32 weights, float32 products, cpu, torch 2.")
    assert "transformers 5." in path
    assert numeric_path(PolicyModule(make().model, precision="bf16")) != path


def test_a_fresh_adapter_leaves_no_trace(make):
    pytest.importorskip("peft")
    plain, fresh = make(), make(lora=True)
    assert adapter_is_zero(fresh)
    assert adapter_tensors(fresh)
    assert not adapter_tensors(plain)
    assert base_tensors(fresh).keys() == base_tensors(plain).keys()
    assert base_digest(fresh) == model_digest(fresh) == model_digest(plain)


def test_a_trained_adapter_is_part_of_the_model(make):
    pytest.importorskip("peft")
    trained = make(lora=True, is_zero=False)
    assert not adapter_is_zero(trained)
    assert base_digest(trained) == base_digest(make())
    assert model_digest(trained) != base_digest(trained)
    assert model_digest(trained) == model_digest(make(lora=True, is_zero=False))
    assert model_digest(trained) != model_digest(make(lora=True, is_zero=False, alpha=16)), "its scale counts"


def test_layers_trained_in_full_beside_an_adapter_belong_to_it(make):
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    both = PolicyModule(peft.get_peft_model(make().model, settings))
    assert base_tensors(both).keys() == base_tensors(make()).keys()
    assert base_digest(both) == base_digest(make())
    assert any("lm_head" in name for name in adapter_tensors(both))
    assert not adapter_is_zero(both)
