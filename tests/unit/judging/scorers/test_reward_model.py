"""Scores of reward models are those of plain transformers, one text at a time."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from support.errors import raises
from support.tokenizers_and_templates import TEMPLATES, byte_level
from tiltlm.core import ModelError
from tiltlm.judging import Item, build_judge
from tiltlm.judging.scorers.reward_model import PairClassifier

ITEMS = [
    Item(prompt, response)
    for prompt in ("what is it?", "question 1 and a longer question about the sky")
    for response in ("it is", "yes, I think so. hello there", "no")
]


def make_llama(folder, *, bos=False, template=None, kind=LlamaForSequenceClassification, window=128):
    tokenizer = byte_level(bos=bos)
    tokenizer.pad_token = "<|turn|>"
    tokenizer.chat_template = TEMPLATES.get(template)
    torch.manual_seed(0)
    labels = {} if kind is LlamaForCausalLM else {"num_labels": 1}
    model = kind(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id, max_position_embeddings=window,
            pad_token_id=tokenizer.pad_token_id, **labels,
        )
    )  # fmt: skip
    if labels:
        torch.nn.init.normal_(model.score.weight)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(("bos", "template"), [(False, None), (True, None), (False, "chatml"), (True, "llama")])
def test_scores_equal_those_of_plain_transformers(tmp_path, bos, template):
    folder = make_llama(tmp_path, bos=bos, template=template)
    found = list(build_judge({"kind": "reward_model", "model": folder, "max_tokens": 60}).score(ITEMS))
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for item, score in zip(ITEMS, found, strict=True):
        if template:
            turns = [{"role": "user", "content": item.prompt}, {"role": "assistant", "content": item.response}]
            ids = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
        else:
            ids = [*tokenizer(item.prompt + item.response).input_ids, tokenizer.eos_token_id]
        assert sum(i == tokenizer.bos_token_id for i in ids) == int(bos), "one beginning token, where there is one"
        with torch.no_grad():
            alone = model(input_ids=torch.tensor([ids])).logits[0, 0].item()
        assert score.value == pytest.approx(alone, abs=1e-5)


def test_turns_and_text_are_read_alike(tmp_path):
    judge = build_judge(f"reward_model:{make_llama(tmp_path, template='chatml')}")
    turns = [Item(({"role": "user", "content": item.prompt},), item.response) for item in ITEMS]
    assert [s.value for s in judge.score(turns)] == [s.value for s in judge.score(ITEMS)]


def test_what_the_window_cannot_hold_is_an_error_and_nothing_else_changes(tmp_path):
    judge = build_judge(f"reward_model:{make_llama(tmp_path, window=48)}")
    long = Item("what is it?", "word " * 100)
    found = list(judge.score([ITEMS[0], long, ITEMS[1], Item("p", "")]))
    assert [score.value is None for score in found] == [False, True, False, True]
    assert "48" in found[1].error
    assert [found[0].value, found[2].value] == pytest.approx([s.value for s in judge.score(ITEMS[:2])], abs=1e-6)


def test_the_digest_names_weights_template_and_not_the_place(tmp_path):
    first = build_judge(f"reward_model:{make_llama(tmp_path / 'a')}").digest
    assert build_judge(f"reward_model:{make_llama(tmp_path / 'b')}").digest == first
    assert build_judge(f"reward_model:{make_llama(tmp_path / 'c', template='chatml')}").digest != first


def test_a_language_model_is_no_reward_model(tmp_path):
    folder = make_llama(tmp_path, kind=LlamaForCausalLM)
    with raises(ModelError, "no_score_head", key="judge.model"):
        build_judge(f"reward_model:{folder}")


def make_bert(folder, labels=1):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "what", "is", "it", "yes", "no", "so", "very"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    BertForSequenceClassification(
        BertConfig(
            vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=24, num_labels=labels,
        )
    ).save_pretrained(folder)  # fmt: skip
    return str(folder)


def test_a_bidirectional_classifier_reads_pairs_of_texts(tmp_path):
    folder = make_bert(tmp_path)
    judge = build_judge({"kind": "reward_model", "model": folder, "max_tokens": 40})
    assert isinstance(judge, PairClassifier)
    items = [Item("what is it", text) for text in ("yes", "no", "yes very very very so", "no no", "yes " * 40)]
    found = list(judge.score(items))
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for item, score in list(zip(items, found, strict=True))[:-1]:
        with torch.no_grad():
            alone = model(**tokenizer(item.prompt, item.response, return_tensors="pt")).logits[0, 0].item()
        assert score.value == pytest.approx(alone, abs=1e-6)
    assert found[-1].value is None
    with raises(ModelError, "no_score_head", key="judge.model"):
        build_judge(f"reward_model:{make_bert(tmp_path / 'two', labels=2)}")
