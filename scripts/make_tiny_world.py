"""Make the tiny model of the quickstart: a Llama of 0.2 million parameters, trained by `sft` on its world's own corpus.

    python scripts/make_tiny_world.py [FOLDER]

Without FOLDER the bundled model in src/tiltlm/worlds/assets is replaced. Some minutes on two CPU cores. Everything is
seeded: on one machine with the same versions and thread count the same bytes come out again.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import tiltlm
from tiltlm.worlds import TextWorld

SEED = 0
NUM_DEMONSTRATIONS = 64_000
SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")
KEPT = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Whole words, each with the space before it, and punctuation marks; decoding gives the text back exactly."""
    words = pre_tokenizers.Split(Regex(r"\n| ?\w+|[^\w\s]"), "isolated")
    pieces = {piece for text in texts for piece, _ in words.pre_tokenize_str(text)}
    vocabulary = {token: i for i, token in enumerate((*SPECIAL, *sorted(pieces)))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = words
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Random weights, seeded."""
    torch.manual_seed(SEED)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=168,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=128,
            tie_word_embeddings=True,
            initializer_range=0.05,
            rms_norm_eps=1e-5,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def main(folder: Path) -> None:
    """Corpus, tokenizer, random model, training; then the five files of the model go to `folder`."""
    world = TextWorld()
    corpus = world.corpus(SEED, NUM_DEMONSTRATIONS)
    tokenizer = make_tokenizer([row["prompt"] + row["completion"] for row in corpus])
    with tempfile.TemporaryDirectory() as scratch:
        start, data, run = (Path(scratch) / name for name in ("start", "corpus.jsonl", "run"))
        make_model(tokenizer).save_pretrained(start)
        tokenizer.save_pretrained(start)
        data.write_text("".join(json.dumps(row) + "\n" for row in corpus), encoding="utf-8")
        tiltlm.train(
            model=str(start),
            data=str(data),
            objective="sft",
            output=str(run),
            learning_rate=3e-3,
            num_epochs=1,
            batch_size=64,
            warmup_ratio=0.05,
            adam_beta2=0.95,
            **{"training.seed": SEED},
        )
        folder.mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            shutil.copyfile(run / "model" / name, folder / name)
    print(f"{folder}: {sum((folder / name).stat().st_size for name in KEPT) / 1e6:.2f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else TextWorld().model_path())
