"""Label probabilities of a model in this process are those of a plain forward."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from support.chat_models import write_chat_model
from support.errors import raises
from tiltlm.core import ConfigError
from tiltlm.judging import Item, PairItem, both_orders, build_judge
from tiltlm.judging.language.local import LocalModel
from tiltlm.judging.language.question import MIN_MASS, Label, Question
from tiltlm.judging.language.templates import by_probability

LABELS = (Label("first", "A", "a"), Label("second", "B", "b"), Label("tie", "C", "c"))
QUESTION = Question("choice", "data", "Which?", "verdict", LABELS)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_chat_model(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def asker(model):
    return LocalModel.load(model)


def plain_masses(asker, plain, question):
    """Probability of each label after `Answer:`, one plain forward a label."""
    tokenizer, masses = asker.encoder.tokenizer, {}
    turns = [{"role": "user", "content": by_probability(question)}]
    text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    for label in question.labels:
        start = tokenizer.encode(f"{text}Answer:", add_special_tokens=False)
        whole = tokenizer.encode(f"{text}Answer: {label.mark}", add_special_tokens=False)
        assert whole[: len(start)] == start
        with torch.no_grad():
            logits = plain(input_ids=torch.tensor([whole])).logits[0].double()
        logps = logits.log_softmax(-1)[torch.arange(len(whole) - 1), whole[1:]]
        masses[label.word] = logps[len(start) - 1 :].sum().exp().item()
    return masses


def test_label_probabilities_equal_plain_forwards(model, asker, monkeypatch):
    plain = AutoModelForCausalLM.from_pretrained(model).eval()
    monkeypatch.setattr("tiltlm.judging.language.question.MIN_MASS", 0.0)
    other = Question("choice", "more data", "Which?", "verdict", LABELS[:2])
    for question, (reply,) in zip([QUESTION, other], asker.ask([[QUESTION], [other]]), strict=True):
        masses = plain_masses(asker, plain, question)
        for word, mass in masses.items():
            assert reply.probabilities[word] == pytest.approx(mass / sum(masses.values()), rel=1e-3)


def test_little_mass_is_an_error(asker):
    ((reply,),) = asker.ask([[QUESTION]])
    assert reply.label_mass < MIN_MASS, "a tiny model of another text does not answer with letters"
    assert reply.error
    assert (reply.mode, reply.probabilities) == ("logprobs", None)


def test_a_label_that_starts_another_is_refused(asker):
    clash = Question("choice", "data", "Which?", "verdict", (Label("one", "x", ""), Label("ten", "xx", "")))
    tokens = [asker.encoder.tokenizer.encode(f"Answer: {mark}", add_special_tokens=False) for mark in ("x", "xx")]
    if tokens[1][: len(tokens[0])] != tokens[0]:
        pytest.skip("this tokenizer writes the two labels with other first tokens")
    with raises(ConfigError, "same_labels", key="judge.model"):
        list(asker.ask([[clash]]))


def test_a_question_that_is_too_long_is_an_error_and_the_others_are_answered(asker):
    window = asker.encoder.window
    assert window, "the bundled model has one"
    long = Question("choice", "word " * (2 * window), "Which?", "verdict", LABELS)
    (first,), (second,) = asker.ask([[long], [QUESTION]])
    assert first.error
    assert first.label_mass is None
    assert second.label_mass is not None


def test_both_orders_mirror(model, monkeypatch):
    monkeypatch.setattr("tiltlm.judging.language.question.MIN_MASS", 0.0)
    judge = build_judge(f"pairwise:{model}")
    one, other = both_orders(judge, [PairItem("p", "x", "yy"), PairItem("p", "yy", "x")])
    assert one.p + other.p == 1
    assert one.status == other.status
    assert one.bias == other.bias
    (score,) = build_judge(f"grade:{model}").score([Item("p", "x")])
    assert 1 < score.value < 5


def test_settings_that_the_place_does_not_read_are_refused(model):
    with raises(ConfigError, "no_effect", key="judge.concurrency"):
        build_judge({"kind": f"pairwise:{model}", "concurrency": 3})
    with raises(ConfigError, "no_effect", key="judge.max_tokens"):
        build_judge({"kind": "pairwise:m", "url": "http://127.0.0.1:1/v1", "max_tokens": 9})
    with raises(ConfigError, "conflict", key="judge.column"):
        build_judge({"kind": f"rubric:{model}", "items": ["a"], "column": "b"})
    with raises(ConfigError, "wrong_type", key="judge.items"):
        build_judge({"kind": f"rubric:{model}", "items": ["0: never"]})
    with raises(ConfigError, "out_of_range", key="judge.levels"):
        build_judge({"kind": f"grade:{model}", "levels": ["one"]})
