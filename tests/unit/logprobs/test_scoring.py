"""The forward of a reward model: the stock classifier's scores and gradients in every layout; from and to a folder."""

import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from support.errors import raises
from tiltlm.core import ModelError, Response, Tree, build_trees, pack_trees, token_ids, with_score_token
from tiltlm.core.example import Example
from tiltlm.logprobs import ScoreModule
from tiltlm.logprobs.module import stock_attention_name
from tiltlm.logprobs.plain import plain_scores
from tiltlm.logprobs.selfcheck import choose_layout
from tiltlm.models import LoraSettings, ModelSettings, load_policy, load_scorer, save_policy


def stock_scores(model, trees, pad=0):
    """One padded batch through the stock classifier: pooled at the last token that is not padding.

    Without a mask: on the right nothing sees padding, and explicit attention over a window makes NaN of masked rows.
    """
    rows = [[*tree.prompt_ids, *response.token_ids] for tree in trees for response in tree.responses]
    ids = torch.full((len(rows), max(map(len, rows))), pad)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    return model(input_ids=ids).logits[:, 0]


def test_a_closed_forest_has_whole_responses_and_one_row_each():
    trees = [
        Tree(token_ids([5, 6]), (Response(token_ids([7, 8])), Response(token_ids([9]), scored=token_ids([0])))),
        Tree(token_ids([4]), (Response(token_ids([3, 2, 1]), scored=token_ids([1])),)),
    ]
    forest = pack_trees(with_score_token(trees))
    assert forest.token_ids.tolist() == [5, 6, 7, 8, 9, 4, 3, 2, 1]
    assert forest.position_ids.tolist() == [0, 1, 2, 3, 2, 0, 1, 2, 3]
    assert forest.branch_lengths == ((2, 1), (3,))
    assert forest.predicts.tolist() == [3, 4, 8], "the last token of each response"
    assert forest.response_index.tolist() == [0, 1, 2]
    assert len(pack_trees(trees).token_ids) == len(forest.token_ids) - 3


def test_closing_keeps_the_slots_of_examples():
    shared = Response(token_ids([3, 4]))
    examples = [Example(str(i), token_ids([1]), (shared, Response(token_ids([5 + i])))) for i in range(2)]
    trees, slots = build_trees(examples)
    assert slots == [[0, 1], [0, 2]]
    assert [len(tree.responses) for tree in with_score_token(trees)] == [3]


@pytest.mark.parametrize("layout", ["shared", "packed", "padded"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral", "gemma2", "gpt2", "mixtral"])
def test_scores_and_gradients_are_those_of_stock_forwards(family, layout, trees, gradients, close, make_classifier):
    """Separate, unpadded forwards; and in values, a padded batch."""
    model = make_classifier(family, pad_token_id=0)
    weights = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    model.set_attn_implementation(stock_attention_name(model))
    wanted = plain_scores(model, trees)
    expected = gradients(model, (weights * wanted).sum())
    module = ScoreModule(model, layout)
    found = module(pack_trees(with_score_token(trees)))
    assert len(found.scores) == 6
    torch.testing.assert_close(found.scores, wanted, atol=1e-6 if family != "llama" else 1e-7, rtol=0)
    assert close(gradients(model, (weights * found.scores).sum()), expected, 1e-6)
    with module.stock_attention():
        torch.testing.assert_close(stock_scores(model, trees), wanted, atol=1e-6, rtol=0)


def test_the_score_is_the_last_tokens_and_of_nothing_else(trees, make_classifier):
    """Another last token gives another score. Another response to the same prompt does not change it."""
    module = ScoreModule(make_classifier())
    prompt = trees[0].prompt_ids
    one, two, three = (Response(token_ids([7, 8, last])) for last in (9, 10, 11))

    def scores(*responses):
        with torch.no_grad():
            return module(pack_trees(with_score_token([Tree(prompt, responses)]))).scores

    assert (scores(one) - scores(two)).abs() > 1e-4
    torch.testing.assert_close(scores(one, two)[:1], scores(one), atol=1e-12, rtol=0)
    torch.testing.assert_close(scores(three, two, one)[1:], scores(two, one), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("family", "layout"), [("llama", "shared"), ("gemma2", "shared"), ("mistral", "shared")])
def test_the_self_check_takes_what_is_right(family, layout, make_classifier):
    choice = choose_layout(make_classifier(family, torch.float32), is_scorer=True)
    assert choice.layout == layout
    assert choice.max_error <= choice.tolerance < 1e-5
    assert choice.head is None
    assert "scores" in choice.reason


def test_the_self_check_refuses_what_is_wrong(make_classifier):
    """BLOOM ignores the attention hook. A forced layout is refused too."""
    model = make_classifier("bloom", torch.float32)
    choice = choose_layout(model, is_scorer=True)
    assert choice.layout == "padded"
    assert {name: why.code for name, why in choice.refused} == {"shared": "hook_unused", "packed": "hook_unused"}
    with raises(ModelError, "no_exact_layout", key="model.layout", mentions=["layout=auto"]):
        choose_layout(model, "shared", is_scorer=True)


def test_what_is_no_reward_model_is_refused(make_classifier, make_model):
    with raises(ModelError, "no_score_head", mentions=["LlamaForSequenceClassification", "`score`", "num_labels=1"]):
        ScoreModule(make_classifier(num_labels=2))
    with raises(ModelError, "no_score_head", mentions=["LlamaForCausalLM", "`score`", "num_labels=1"]):
        ScoreModule(make_model("llama", num_labels=1))


def test_a_sequence_too_long_is_refused(make_classifier):
    module = ScoreModule(make_classifier("gpt2"))
    whole = Tree(token_ids([1] * 100), (Response(token_ids([2] * 28)),))
    longer = Tree(token_ids([1] * 100), (Response(token_ids([2] * 29)),))
    module(pack_trees(with_score_token([whole])))
    with raises(ModelError, "too_long", key="data.max_length", mentions=["129", "128", "data.max_length"]):
        module(pack_trees(with_score_token([longer])))


@pytest.fixture
def folder(tmp_path, make_model, write_tokenizer):
    """A language model."""
    path = tmp_path / "model"
    make_model("llama", torch.float32).save_pretrained(path)
    write_tokenizer(path, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    return path


def scored(scorer, trees):
    with torch.no_grad():
        return scorer.module(pack_trees(with_score_token(trees))).scores


def codes(scorer):
    return {note.code for note in scorer.notes}


def reloaded(path, trees):
    """Return the scores of the folder's model in transformers."""
    model, info = transformers.AutoModelForSequenceClassification.from_pretrained(path, output_loading_info=True)
    assert not info["missing_keys"]
    with torch.no_grad():
        return stock_scores(model.eval(), trees)


def test_a_language_model_gets_a_new_head_the_same_every_time(folder, trees):
    before = torch.get_rng_state()
    first, second = (load_scorer(ModelSettings(str(folder))) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(scored(first, trees), scored(second, trees))
    assert scored(first, trees).std() > 0
    assert first.choice.layout == "shared"
    assert {"layout", "score_position", "new_score_head"} <= codes(first)
    body = load_policy(ModelSettings(str(folder))).module.bare_model.model.state_dict()
    assert all(torch.equal(tensor, body[name]) for name, tensor in first.module.bare_model.model.state_dict().items())


def test_a_saved_reward_model_is_an_ordinary_classifier(folder, tmp_path, trees):
    scorer = load_scorer(ModelSettings(str(folder)))
    with torch.no_grad():
        scorer.module.bare_model.score.weight.mul_(30)
    save_policy(scorer, tmp_path / "saved", merge=True)
    wanted = scored(scorer, trees)
    torch.testing.assert_close(reloaded(tmp_path / "saved", trees), wanted, atol=1e-5, rtol=0)
    again = load_scorer(ModelSettings(str(tmp_path / "saved")))
    assert torch.equal(scored(again, trees), wanted)
    assert "new_score_head" not in codes(again)
    config = json.loads((tmp_path / "saved/config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert config["pad_token_id"] == 0


def test_an_end_token_that_pads_is_still_scored(tmp_path, make_model, trees, write_tokenizer):
    """If padding were the end token, transformers would read the score of the token before it."""
    path = tmp_path / "model"
    make_model("llama", torch.float32, pad_token_id=2).save_pretrained(path)
    write_tokenizer(path, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    scorer = load_scorer(ModelSettings(str(path)))
    assert "no_padding_token" in codes(scorer)
    ended = [Tree(token_ids([5, 6]), (Response(token_ids([7, 8, 2])), Response(token_ids([7, 8]))))]
    values = scored(scorer, ended)
    assert (values[0] - values[1]).abs() > 1e-4
    save_policy(scorer, tmp_path / "saved")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    with torch.no_grad():
        alone = [model(torch.tensor([[5, 6, *r.token_ids]])).logits[0, 0] for r in ended[0].responses]
        torch.testing.assert_close(torch.stack(alone), values, atol=1e-5, rtol=0)
        with pytest.raises(ValueError, match="no padding token"):
            stock_scores(model, ended)


def test_an_adapter_trains_with_the_head_and_is_saved_both_ways(folder, tmp_path, trees):
    pytest.importorskip("peft")
    scorer = load_scorer(ModelSettings(str(folder), lora=LoraSettings(r=2)))
    trained = {name for name, p in scorer.module.named_parameters() if p.requires_grad}
    assert {name for name in trained if "lora_" not in name} == {
        "model.base_model.model.score.modules_to_save.default.weight"
    }
    assert not any("score" in name for name in trained if "lora_" in name)
    assert torch.equal(scored(scorer, trees), scored(load_scorer(ModelSettings(str(folder))), trees))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in scorer.module.named_parameters():
            if name in trained:
                p.add_(0.2 * torch.randn(p.shape, generator=generator))
    wanted = scored(scorer, trees)
    save_policy(scorer, tmp_path / "merged", merge=True)
    save_policy(scorer, tmp_path / "adapter")
    torch.testing.assert_close(reloaded(tmp_path / "merged", trees), wanted, atol=1e-5, rtol=0)
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert config["task_type"] == "SEQ_CLS"
    again = load_scorer(ModelSettings(str(folder), adapter=str(tmp_path / "adapter")))
    torch.testing.assert_close(scored(again, trees), wanted, atol=1e-6, rtol=0)
    assert "new_score_head" not in codes(again)


def test_an_incomplete_folder_is_refused(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("model.norm.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with raises(
        ModelError,
        "missing_tensors",
        key="model.path",
        mentions=["LlamaForSequenceClassification", "model.norm.weight"],
    ):
        load_scorer(ModelSettings(str(folder)))


@pytest.mark.parametrize("is_tied", [True, False])
def test_a_reward_model_is_no_policy(tmp_path, make_model, write_tokenizer, is_tied):
    """With tied embeddings nothing is missing in its weights."""
    path = tmp_path / "model"
    make_model("llama", torch.float32, tie_word_embeddings=is_tied).save_pretrained(path)
    write_tokenizer(path, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    save_policy(load_scorer(ModelSettings(str(path))), tmp_path / "saved")
    for key in ("model.path", "reference.name"):
        with raises(ModelError, "reward_model_as_policy", key=key, mentions=["LlamaForSequenceClassification"]):
            load_policy(ModelSettings(str(tmp_path / "saved")), key=key)
    save_policy(load_scorer(ModelSettings(str(path), lora=LoraSettings(r=2))), tmp_path / "adapter")
    with raises(ModelError, "not_supported", key="model.adapter", mentions=["SEQ_CLS"]):
        load_policy(ModelSettings(str(tmp_path / "adapter")))
    save_policy(load_policy(ModelSettings(str(path), lora=LoraSettings(r=2))), tmp_path / "policy")
    with raises(ModelError, "not_supported", key="model.adapter", mentions=["CAUSAL_LM"]):
        load_scorer(ModelSettings(str(tmp_path / "policy")))


def test_in_16_bits_scores_come_close(trees, make_classifier):
    wide = ScoreModule(make_classifier(dtype=torch.float32))(pack_trees(with_score_token(trees))).scores
    narrow = ScoreModule(make_classifier(dtype=torch.float32), precision="bf16")(
        pack_trees(with_score_token(trees))
    ).scores
    assert narrow.dtype == torch.float32
    assert np.abs((wide - narrow).detach().numpy()).max() < 0.05 * wide.abs().max()
