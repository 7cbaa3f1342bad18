"""What all sides of a comparison load: a random Llama, a tokenizer, and preference pairs in a fixed order.

    python benchmarks/workload.py FOLDER --name micro-hh [--steps 4] [--data PAIRS]

Writes `model/` (a Hugging Face folder), `rows.jsonl` (as tiltlm reads them), `pairs.jsonl` (prompt, chosen, rejected,
in the order in which tiltlm's loop visits them, for a peer that reads its data from front to back) and `workload.json`.
"""

import argparse
import gzip
import itertools
import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tiltlm.data import DataSettings, Encoder, PreferenceData, load_data
from tiltlm.training.timetable import Timetable
from tiltlm.training.training_settings import TrainingSettings

END = "<|end|>"
SHAPES: dict[str, dict[str, int]] = {
    "nano": {"hidden_size": 128, "intermediate_size": 344, "num_hidden_layers": 4, "num_attention_heads": 4},
    "micro": {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 6},
    "135M": {
        "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
}  # fmt: skip
"""Llama, without a vocabulary. 135M is the shape of SmolLM2-135M, its embedding tied."""
TRIPLES = {
    "tldr": (382, 34, 34),
    "ultrafeedback": (121, 288, 288),
    "capybara": (712, 448, 448),
    "helpsteer": (669, 106, 106),
    "long": (8192, 256, 256),
}
"""Tokens of prompt, chosen and rejected. Every pair has exactly these, so that no side has to pad."""
GROUP = (256, 128, 4)
"""Tokens of the prompt and of each response, and responses a prompt: all 6 comparisons of 4 count."""


@dataclass(frozen=True)
class Workload:
    """A model and data for it."""

    shape: str
    vocabulary: int
    profile: str
    """`hh`: real pairs. A name of `TRIPLES`: random words. `group4`: four ranked responses a prompt. `group4_apart`:
    the same comparisons as six rows whose prompts differ in one token, so that nothing can be shared."""
    batch_size: int = 8
    """Rows a step."""


WORKLOADS = {
    "micro-hh": Workload("micro", 16_000, "hh"),
    "micro49-hh": Workload("micro", 49_152, "hh"),
    "micro33-hh": Workload("micro", 32_768, "hh"),
    "micro-hh16": Workload("micro", 16_000, "hh", 16),
    "micro-hh4": Workload("micro", 16_000, "hh", 4),
    "nano-hh": Workload("nano", 8192, "hh"),
    "135M-hh": Workload("135M", 49_152, "hh", 2),
    "micro-tldr": Workload("micro", 16_000, "tldr", 4),
    "micro-ultrafeedback": Workload("micro", 16_000, "ultrafeedback", 4),
    "micro-capybara": Workload("micro", 16_000, "capybara", 2),
    "micro-helpsteer": Workload("micro", 16_000, "helpsteer", 2),
    "nano-long": Workload("nano", 8192, "long", 1),
    "micro-group4": Workload("micro", 16_000, "group4", 1),
    "micro-group4-apart": Workload("micro", 16_000, "group4_apart", 6),
}


def shape_of(workload: Workload) -> dict[str, int]:
    """The model's configuration; without a number of key and value heads, as many as heads."""
    shape = SHAPES[workload.shape]
    return {
        "vocab_size": workload.vocabulary, "num_key_value_heads": shape["num_attention_heads"], **shape,
        "max_position_embeddings": 16_384,
    }  # fmt: skip


def settings_of(workload: dict[str, Any]) -> TrainingSettings:
    """The training settings of the workload: AdamW, constant rate, gradients clipped to 1, as the peers have them."""
    return TrainingSettings(
        learning_rate=workload["learning_rate"],
        batch_size=workload["batch_size"],
        warmup_ratio=0.0,
        schedule="constant",
    )


def load_rows(folder: Path, tokenizer: Any) -> PreferenceData:
    """The workload's rows as tiltlm loads them; one that had to be cut or dropped stops the benchmark."""
    settings = DataSettings(train=str(folder / "rows.jsonl"), max_length=16_384, truncation="error", on_bad="error")
    return load_data(settings, Encoder(tokenizer, tokenizer.eos_token_id), "pairs")


def subword_tokenizer(texts: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of these texts, with an end token and nothing else special."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return finished(tokenizer)


def word_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """A tokenizer whose words w1, w2, … are one token each: lengths come out as drawn."""
    words = Tokenizer(models.WordLevel({END: 0, **{f"w{i}": i for i in range(1, vocabulary)}}, unk_token=END))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return finished(words)


def finished(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """With its end token named."""
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, eos_token=END, pad_token=END
    )


def usable_pairs(rows: list[dict[str, str]], num_pairs: int) -> list[dict[str, Any]]:
    """The first pairs that split into prompt, chosen and rejected at their last assistant turn."""
    from tiltlm.data.accounting import Defect
    from tiltlm.data.rows.prompts import is_blank, split_pair

    pairs: list[dict[str, Any]] = []
    for row in rows:
        try:
            prompt, chosen, rejected = split_pair(row["chosen"], row["rejected"])
        except Defect:
            continue
        if chosen != rejected and not is_blank(chosen) and not is_blank(rejected):
            pairs.append({"prompt": str(prompt), "chosen": str(chosen), "rejected": str(rejected)})
        if len(pairs) == num_pairs:
            return pairs
    raise SystemExit(f"only {len(pairs)} usable pairs, {num_pairs} asked for")


class Words:
    """Random text of so many words."""

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary, self.random = vocabulary, random.Random(0)

    def text(self, count: int) -> str:
        return " ".join(f"w{self.random.randrange(1, self.vocabulary)}" for _ in range(count))

    def pair(self, prompt: int, chosen: int, rejected: int) -> dict[str, Any]:
        """Responses end with the end token, which is one of theirs."""
        return {
            "prompt": self.text(prompt), "chosen": " " + self.text(chosen - 1),
            "rejected": " " + self.text(rejected - 1),
        }  # fmt: skip

    def group(self) -> dict[str, Any]:
        prompt, response, count = GROUP
        completions = [" " + self.text(response - 1) for _ in range(count)]
        return {"prompt": self.text(prompt), "completions": completions, "ranks": list(range(1, count + 1))}

    def apart(self, group: dict[str, Any]) -> list[dict[str, Any]]:
        """The group's comparisons as rows that share nothing: each prompt begins with a word of its own."""
        return [
            {**pair, "prompt": self.text(1) + pair["prompt"][pair["prompt"].index(" ") :]} for pair in compared(group)
        ]


def compared(row: dict[str, Any]) -> list[dict[str, Any]]:
    """A row as pairs: itself, or every comparison of its ranked responses."""
    if "completions" not in row:
        return [row]
    return [
        {"prompt": row["prompt"], "chosen": better, "rejected": worse}
        for better, worse in itertools.combinations(row["completions"], 2)
    ]


def make_rows(workload: Workload, data: Path, num_rows: int) -> tuple[list[dict[str, Any]], PreTrainedTokenizerFast]:
    """Rows of the profile, and their tokenizer."""
    if workload.profile == "hh":
        with gzip.open(data, "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        texts = [row[side] for row in rows for side in ("chosen", "rejected")]
        return usable_pairs(rows, num_rows), subword_tokenizer(texts, min(workload.vocabulary, 16_000))
    words = Words(workload.vocabulary)
    if workload.profile == "group4":
        made = [words.group() for _ in range(num_rows)]
    elif workload.profile == "group4_apart":
        made = [row for _ in range(-(-num_rows // 6)) for row in words.apart(words.group())][:num_rows]
    else:
        made = [words.pair(*TRIPLES[workload.profile]) for _ in range(num_rows)]
    return made, word_tokenizer(workload.vocabulary)


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write JSON Lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def prepare(folder: Path, name: str, data: Path, num_steps: int, precision: str = "float32", threads: int = 2) -> None:
    """Write the whole workload into `folder`; its first step is for warming up."""
    chosen = WORKLOADS[name]
    rows, tokenizer = make_rows(chosen, data, num_steps * chosen.batch_size)
    torch.manual_seed(0)
    shape = shape_of(chosen)
    tied, end = chosen.shape == "135M", tokenizer.eos_token_id
    model = LlamaForCausalLM(LlamaConfig(**shape, tie_word_embeddings=tied, bos_token_id=None, eos_token_id=end))
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    write_lines(folder / "rows.jsonl", rows)
    workload = {
        "name": name, **asdict(chosen), "shape": shape, "precision": precision,
        "threads": threads, "beta": 0.1, "learning_rate": 1e-4, "num_steps": num_steps,
        "num_parameters": sum(p.numel() for p in model.parameters()),
    }  # fmt: skip
    loaded = load_rows(folder, tokenizer)
    table = Timetable.of(loaded.train, loaded.fingerprint, settings_of(workload))
    order = [row for step in range(table.num_steps) for row in table.rows(step)]
    pairs = [compared(rows[i]) for i in order]
    write_lines(folder / "pairs.jsonl", [pair for own in pairs for pair in own])
    workload["pairs_a_step"] = chosen.batch_size * len(pairs[0])
    (folder / "workload.json").write_text(json.dumps(workload, indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--name", choices=list(WORKLOADS), default="micro-hh")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4, dest="num_steps")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32")
    parser.add_argument("--threads", type=int, default=2)
    prepare(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
