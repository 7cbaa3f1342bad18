"""What both sides of the comparison load: a random Llama, a tokenizer, and real preference pairs in a fixed order.

    python benchmarks/workload.py FOLDER --data PAIRS [--pairs 64] [--threads 2] …

Writes `model/` (a Hugging Face folder), `pairs.jsonl` (prompt, chosen, rejected), `ordered.jsonl` (the same pairs in
the order in which tiltlm's loop visits them, for a peer that reads its data from front to back) and `workload.json`.
"""

import argparse
import gzip
import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tiltlm.data import DataSettings, Encoder, PreferenceData, load_data
from tiltlm.training.settings import TrainingSettings
from tiltlm.training.timetable import Timetable

END = "<|end|>"
SHAPE: dict[str, Any] = {
    "vocab_size": 16_000,
    "hidden_size": 384,
    "intermediate_size": 1024,  # 8/3 of the width, as Llama has it
    "num_hidden_layers": 8,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}


def settings_of(workload: dict[str, Any]) -> TrainingSettings:
    """The training settings of the workload: AdamW, constant rate, gradients clipped to 1, as the peer has them."""
    return TrainingSettings(
        learning_rate=workload["learning_rate"],
        batch_size=workload["batch_size"],
        warmup_ratio=0.0,
        schedule="constant",
    )


def load_pairs(folder: Path, tokenizer: Any, workload: dict[str, Any]) -> PreferenceData:
    """The workload's pairs as tiltlm loads them; a row that had to be cut or dropped stops the benchmark."""
    settings = DataSettings(
        train=str(folder / "pairs.jsonl"), max_length=workload["max_length"], truncation="error", on_bad="error"
    )
    return load_data(settings, Encoder(tokenizer, tokenizer.eos_token_id), "pairs")


def train_tokenizer(texts: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
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
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, eos_token=END, pad_token=END
    )


def usable_pairs(rows: list[dict[str, str]], num_pairs: int) -> list[dict[str, str]]:
    """The first pairs that split into prompt, chosen and rejected at their last assistant turn."""
    from tiltlm.data.accounting import Defect
    from tiltlm.data.prompts import is_blank, split_pair

    pairs: list[dict[str, str]] = []
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


def write_lines(path: Path, rows: list[dict[str, str]]) -> None:
    """Write JSON Lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def prepare(folder: Path, data: Path, workload: dict[str, Any]) -> None:
    """Write the whole workload into `folder`."""
    with gzip.open(data, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    tokenizer = train_tokenizer([row[side] for row in rows for side in ("chosen", "rejected")], SHAPE["vocab_size"])
    torch.manual_seed(0)
    end = tokenizer.eos_token_id
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, bos_token_id=None, eos_token_id=end))
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    pairs = usable_pairs(rows, workload["num_pairs"])
    write_lines(folder / "pairs.jsonl", pairs)
    loaded = load_pairs(folder, tokenizer, workload)
    table = Timetable(len(pairs), loaded.fingerprint, settings_of(workload))
    order = [row for step in range(table.num_steps) for row in table.rows(step)]
    write_lines(folder / "ordered.jsonl", [pairs[i] for i in order])
    workload["shape"] = SHAPE
    workload["num_parameters"] = sum(p.numel() for p in model.parameters())
    (folder / "workload.json").write_text(json.dumps(workload, indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=64, dest="num_pairs")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--threads", type=int, default=2)
    args = vars(parser.parse_args())
    prepare(args.pop("folder"), args.pop("data"), args)


if __name__ == "__main__":
    main()
