"""A reward model is trained from pairs by the same command and saved as a classifier of transformers."""

import json
import re

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import tiltlm
from support.errors import raises
from support.tokenizers_and_templates import TEMPLATES, byte_level
from tiltlm.core import ConfigError

pytestmark = pytest.mark.usefixtures("blank_figures")
SETTINGS = {"objective": "reward_model", "learning_rate": 1e-3, "batch_size": 8, "eval_fraction": 0.25}


@pytest.fixture(scope="module")
def reward_model(train, data, tmp_path_factory):
    output = tmp_path_factory.mktemp("reward") / "run"
    return train(output, data=data, num_epochs=4, save_every=6, **SETTINGS)


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_it_learns_to_rank(reward_model):
    lines = [line for line in rows_of(reward_model.path / "metrics.jsonl") if "eval_loss" in line]
    assert lines[0]["eval_loss"] == pytest.approx(0.693, abs=0.05)
    assert lines[-1]["eval_rewards/margins"] > 0.5
    assert lines[-1]["eval_rewards/accuracies"] > 0.7
    assert not [name for name in lines[-1] if "logps" in name]


def test_its_report_is_accuracy_and_margin_on_held_out_pairs(reward_model):
    """A reward model generates no text, so there are no samples and no KL."""
    report = reward_model.report
    assert report.samples is None
    assert report.held_out.learner == "reward model"
    contrast = report.held_out.contrast
    assert contrast.accuracy.after.estimate > 0.7
    assert contrast.margin.after.low > 0
    assert (contrast.better, contrast.seq_accuracy, contrast.displacement) == (None, None, None)
    assert "the trained reward model ranks the chosen response" in reward_model.verdict
    page = (reward_model.path / "report.html").read_text()
    assert re.search(r"\btrained reward model", page)
    assert 'data-row="kl"' not in page
    assert 'data-absent="no_samples"' in page
    assert "displaced" not in page
    written = json.loads((reward_model.path / "report.json").read_text())
    assert written["samples"] is None


def test_the_folder_scores_as_the_command_does(reward_model, data, tmp_path):
    """`tiltlm score` gives the scores of transformers' own classifier, computed text by text."""
    folder = reward_model.path / "model"
    file = tmp_path / "rows.jsonl"
    result = tiltlm.score(model=folder, data=data, objective="reward_model", per_example=file)
    assert result["metrics"]["rewards/margins"] > 0.5
    scores = [{r["role"]: r["score"] for r in row["responses"]} for row in rows_of(file)]
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for row, found in list(zip(rows_of(data), scores, strict=True))[:6]:
        for role in ("chosen", "rejected"):
            ids = tokenizer(row["prompt"] + row[role])["input_ids"]
            ids += [] if ids[-1] == tokenizer.eos_token_id else [tokenizer.eos_token_id]
            with torch.no_grad():
                alone = model(input_ids=torch.tensor([ids])).logits[0, 0].item()
            assert found[role] == pytest.approx(alone, abs=1e-5)


def test_training_goes_on_from_a_reward_model(reward_model, train, data, tmp_path, caplog):
    with caplog.at_level("INFO", "tiltlm"):
        run = train(tmp_path / "run", data=data, max_steps=1, **{**SETTINGS, "learning_rate": 1e-6})
        again = tiltlm.train(
            model=reward_model.path / "model", data=data, output=tmp_path / "again", max_steps=1, **SETTINGS
        )
    assert sum("score head" in message for message in caplog.messages) == 1, (
        "the first run makes it, the second finds it"
    )
    accuracies = [run.report.held_out.contrast.accuracy.before for run in (run, again)]
    assert accuracies[1].estimate > accuracies[0].estimate


def test_resuming_equals_never_having_stopped(reward_model, train, data, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(reward_model.path, copy)
    shutil.rmtree(max((copy / "checkpoints").iterdir(), key=lambda path: path.name))
    train(copy, data=data, num_epochs=4, save_every=6, resume=True, **SETTINGS)
    kept, resumed = (
        AutoModelForSequenceClassification.from_pretrained(path / "model") for path in (reward_model.path, copy)
    )
    for a, b in zip(kept.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_adapter_is_trained_with_the_head_and_merged(train, data, tmp_path):
    settings = {**SETTINGS, "learning_rate": 5e-3, "centering": 0.01}
    run = train(tmp_path / "run", data=data, num_epochs=2, **settings, **{"model.lora.r": 4})
    merged, info = AutoModelForSequenceClassification.from_pretrained(run.path / "model", output_loading_info=True)
    assert not info["missing_keys"]
    assert not hasattr(merged, "peft_config")
    assert (run.path / "adapter/adapter_config.json").exists()
    assert run.report.held_out.contrast.accuracy.after.estimate > 0.6


def test_packing_changes_no_number(reward_model, data):
    """The loss is the same with one row per pack and with all rows in one: a score depends only on its own sequence."""
    folder = reward_model.path / "model"
    losses = [
        tiltlm.score(model=folder, data=data, objective="reward_model", **{"training.max_tokens": budget})["loss"]
        for budget in (40, 4096)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_the_margin_of_the_data_is_subtracted(reward_model, data, tmp_path):
    """With a large offset the loss of every comparison is close to offset − margin."""
    with_margin = tmp_path / "margin.jsonl"
    with_margin.write_text("".join(json.dumps({**row, "offset": 30.0}) + "\n" for row in rows_of(data)))
    folder = reward_model.path / "model"
    result = tiltlm.score(model=folder, data=with_margin, objective="reward_model")
    assert result["loss"] == pytest.approx(30 - result["metrics"]["rewards/margins"], abs=1e-3)


def test_a_reference_is_refused(train, data, tmp_path):
    with raises(ConfigError, "no_effect", key="reference.name", mentions=["'initial'"]):
        train(tmp_path / "run", data=data, reference="initial", **SETTINGS)


def test_a_link_on_likelihoods_is_refused(train, data, tmp_path):
    """Parts may be combined in YAML, but this combination needs log-probabilities that a reward model lacks."""
    objective = {"data": "pairs", "reward": "learned", "link": "logistic", "regularisers": [{"name": "chosen_nll"}]}
    with raises(ConfigError, "needs_policy", key="objective"):
        train(tmp_path / "run", data=data, **{**SETTINGS, "objective": objective})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("template", ["chatml", "llama", "plain"])
@pytest.mark.parametrize("kind", ["whole", "adapter"])
def test_conversations_are_scored_where_plain_transformers_reads_them(template, kind, tmp_path):
    """ChatML writes a line break after its end token, and `apply_chat_template` gives it to the classifier."""
    tokenizer = byte_level(bos=template == "llama")
    tokenizer.pad_token = tokenizer.eos_token
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    conversations = [
        {side: [{"role": "user", "content": f"what is {i}?"}, {"role": "assistant", "content": answer}]
         for side, answer in (("chosen", "it is " * (i % 4 + 1)), ("rejected", "no"))}
        for i in range(16)
    ]  # fmt: skip
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in conversations))
    lora = {"model.lora.r": 4} if kind == "adapter" else {}
    run = tiltlm.train(
        model=str(tmp_path / "model"), data=str(rows), output=tmp_path / "run", num_epochs=4,
        **{**SETTINGS, "learning_rate": 1e-2, "data.chat_template": TEMPLATES[template]}, **lora,
    )  # fmt: skip
    folder = run.path / "model"
    file = tmp_path / "scores.jsonl"
    tiltlm.score(model=str(folder), data=str(rows), objective="reward_model", per_example=file)
    found = [r["score"] for row in rows_of(file) for r in row["responses"]]
    saved = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    texts = [row[side] for row in conversations for side in ("chosen", "rejected")]
    for padding_side in ("right", "left"):
        saved.padding_side = padding_side
        batch = saved.apply_chat_template(texts, padding=True, return_tensors="pt", return_dict=True)
        with torch.no_grad():
            together = model(**batch).logits[:, 0]
        torch.testing.assert_close(together, torch.tensor(found), atol=1e-4, rtol=0)
    assert torch.tensor(found).std() > 0.05
