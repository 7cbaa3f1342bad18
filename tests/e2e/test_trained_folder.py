"""The folder that a run writes: plain transformers renders, generates and ends as the run did."""

import json

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

import tiltlm
from support.tokenizers_and_templates import CHATML, byte_level

pytestmark = pytest.mark.usefixtures("blank_figures")

NAMED = CHATML.replace("assistant\n{% endif %}", "{{ speaker | default('assistant') }}\n{% endif %}").replace(
    "<|im_start|>{{ m.role }}",
    "<|im_start|>{{ (speaker | default('assistant')) if m.role == 'assistant' else m.role }}",
)
"""ChatML with a variable."""


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    """A random model whose tokenizer has no template; its generation configuration has a temperature, no sampling."""
    folder = tmp_path_factory.mktemp("chat")
    tokenizer = byte_level(bos=False)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=256, bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=None,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    file = folder / "model" / "generation_config.json"
    file.write_text(json.dumps({"temperature": 0.6, "top_p": 0.9, "eos_token_id": tokenizer.eos_token_id}))
    (folder / "template.jinja").write_text(NAMED)
    turns = [
        [{"role": "user", "content": f"question {i}"}, {"role": "assistant", "content": "yes " * (i % 3 + 1)}]
        for i in range(40)
    ]
    rows = [json.dumps({"messages": messages}) + "\n" for messages in turns]
    (folder / "rows.jsonl").write_text("".join(rows[:30]))
    (folder / "held_out.jsonl").write_text("".join(rows[30:]))
    return folder


@pytest.fixture(scope="module", params=["whole", "adapter"])
def run(request, chat, tmp_path_factory):
    """A run that learns to end each response with `<|im_end|>`."""
    lora = {"model.lora.r": 16, "model.lora.target_modules": ["q_proj", "v_proj", "down_proj", "lm_head"]}
    return tiltlm.train(
        model=str(chat / "model"), data=str(chat / "rows.jsonl"), objective="sft",
        output=tmp_path_factory.mktemp("runs") / "run", num_epochs=10, batch_size=8, learning_rate=2e-2,
        **(lora if request.param == "adapter" else {}),
        **{
            "data.chat_template": str(chat / "template.jinja"), "data.chat_template_kwargs": {"speaker": "helper"},
            "data.eval": str(chat / "held_out.jsonl"), "evaluation.max_new_tokens": 40, "evaluation.num_samples": 4,
        },
    )  # fmt: skip


def plain_models(run):
    """Yield every form of the trained model as a user of transformers and PEFT loads it, with its tokenizer."""
    model = run.path / "model"
    yield AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    adapter = run.path / "adapter"
    if adapter.exists():
        base = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
        adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
        adapted.generation_config = GenerationConfig.from_pretrained(adapter)
        adapted.get_base_model().generation_config = adapted.generation_config
        yield adapted, AutoTokenizer.from_pretrained(adapter)


def test_plain_generation_ends_where_the_report_counted(run):
    assert run.report.samples.after.cut_share == 0, "the run has learned to end"
    for model, tokenizer in plain_models(run):
        end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        turns = [{"role": "user", "content": "question 7"}]
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=False)
        assert tokenizer.decode(ids[0]).endswith("<|im_start|>helper\n"), "the variable of the run is the default"
        torch.manual_seed(0)
        drawn = model.generate(
            ids, do_sample=True, temperature=1.0, top_p=1.0, top_k=0, num_return_sequences=20, max_new_tokens=40
        )[:, ids.shape[1] :]
        for answer in drawn.tolist():
            assert end in answer
            assert all(token in (tokenizer.eos_token_id, end) for token in answer[answer.index(end) :]), "nothing after"


def test_the_generation_configuration_keeps_what_the_model_came_with(run, chat):
    came = json.loads((chat / "model" / "generation_config.json").read_text())
    for folder in [f for f in (run.path / "model", run.path / "adapter") if f.exists()]:
        saved = json.loads((folder / "generation_config.json").read_text())
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert saved["eos_token_id"] == [came["eos_token_id"], tokenizer.convert_tokens_to_ids("<|im_end|>")]
        assert (saved["temperature"], saved["top_p"]) == (0.6, 0.9)
        assert "do_sample" not in saved


def test_scoring_the_folder_reproduces_the_run(run, chat):
    """Without any setting of the template: the folder has it."""
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    measured = [line["eval_loss"] for line in lines if "eval_loss" in line][-1]
    for folder in [f for f in (run.path / "model", run.path / "adapter") if f.exists()]:
        scored = tiltlm.score(model=str(folder), data=str(chat / "held_out.jsonl"), objective="sft")
        assert scored["loss"] == pytest.approx(measured, abs=1e-5)


def test_the_model_is_saved_before_anything_that_may_fail(chat, tmp_path, monkeypatch):
    measure = tiltlm.recipes.train.measure_policy

    def fail_after_training(*args, trained, **keywords):
        if trained:
            raise MemoryError("no room for samples")
        return measure(*args, trained=trained, **keywords)

    monkeypatch.setattr("tiltlm.recipes.train.measure_policy", fail_after_training)
    settings = {"data.chat_template": CHATML, "evaluation.num_prompts": 0}
    with pytest.raises(MemoryError):
        tiltlm.train(
            model=str(chat / "model"), data=str(chat / "rows.jsonl"), objective="sft", output=tmp_path / "run",
            max_steps=1, **settings,
        )  # fmt: skip
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    assert not (tmp_path / "run" / "report.html").exists()
