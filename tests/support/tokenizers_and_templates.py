"""Tiny tokenizers of three families that differ at boundaries, four chat templates, and a row of data."""

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXT = [
    "The sky is blue and the sky is black. Yes or no? Answer: Yes, I think so.",
    "\n\nHuman: what is it?\n\nAssistant: it is",
    "hello world, hello there; a system message, a user message and an assistant message. question and answer 1 2 3",
]
MARKS = ["<|im_start|>", "<|im_end|>", "<|turn|>", "<|eot|>"]

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for m in messages %}<|turn|>{{ m.role }}\n\n{{ m.content | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n\n{% endif %}"
)
PLAIN_TURNS = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
FORGETFUL = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1] }}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATES = {"chatml": CHATML, "llama": LLAMA, "plain": PLAIN_TURNS, "forgetful": FORGETFUL}


def byte_level(*, bos: bool) -> PreTrainedTokenizerFast:
    """Make a byte-level BPE as GPT-2 has; with `bos` it puts `<s>` before every text, as Llama 3 does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", *MARKS]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False, min_frequency=1
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    names = {"bos_token": "<s>"} if bos else {}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", **names)


def sentencepiece() -> PreTrainedTokenizerFast:
    """Make a tokenizer like a converted one of Llama 2: a space before every text, bytes for unknown characters."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "▁"]
    pieces += [chr(c) for c in range(33, 127)] + MARKS
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("▁", "a"), ("i", "s"), ("▁", "is"), ("l", "l"), (":", "▁a")]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys([*pieces, *(a + b for a, b in merges)]))}
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>", *MARKS])
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


FAMILIES = {
    "gpt2-like": lambda: byte_level(bos=False),
    "llama3-like": lambda: byte_level(bos=True),
    "llama2-like": sentencepiece,
}


def pair(i: int = 0, **more: object) -> dict[str, object]:
    """Return a valid row of pairs."""
    return {"prompt": f"question {i}", "chosen": f" yes {i}", "rejected": f" no {i}", **more}
