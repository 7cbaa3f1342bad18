"""Deliberately broken data, made in code: each case is a file, and exactly what a check finds in it."""

import codecs
import gzip
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WORDS = [
    "amber",
    "basin",
    "cedar",
    "delta",
    "ember",
    "fjord",
    "grove",
    "harbor",
    "island",
    "jungle",
    "kettle",
    "lantern",
    "meadow",
    "nectar",
    "orchid",
    "pebble",
    "quartz",
    "river",
    "saddle",
    "timber",
    "umbra",
    "valley",
    "willow",
    "xenon",
    "yonder",
    "zephyr",
    "anchor",
    "beacon",
    "canyon",
    "dagger",
    "engine",
    "falcon",
    "garnet",
]


def words(seed: object, count: int = 12) -> str:
    """Return some words; other seeds give other words."""
    return " ".join(random.Random(str(seed)).choices(WORDS, k=count))


def good(i: int, **more: object) -> dict[str, Any]:
    """Return a pair in which nothing is wrong: the two responses have the same words in another order."""
    chosen = words(f"c{i}")
    pair = {"prompt": words(f"p{i}"), "chosen": chosen, "rejected": " ".join(reversed(chosen.split()))}
    return {**pair, **more}


def turns(*roles: str, seed: object = 0) -> list[dict[str, Any]]:
    """Return turns of these roles with words."""
    return [{"role": role, "content": words(f"{seed} {k}")} for k, role in enumerate(roles)]


def chat(i: int, *roles: str, **more: object) -> dict[str, Any]:
    """Return a pair whose prompt is turns of these roles."""
    prompt = turns(*(roles or ("user",)), seed=f"t{i}")
    answers = {k: turns("assistant", seed=f"{k}{i}") for k in ("chosen", "rejected")}
    return {"prompt": prompt, **answers, **more}


def unpaired(i: int, label: bool, **more: object) -> dict[str, Any]:
    """Return a labelled response."""
    return {"prompt": words(f"p{i}"), "completion": words(f"c{i}"), "label": label, **more}


Write = Callable[[Path], str]


def lines(*rows: object, name: str = "data.jsonl", end: str = "\n", start: bytes = b"") -> Write:
    """Return a function that writes rows, or raw lines, as JSON Lines."""

    def write(folder: Path) -> str:
        path = folder / name
        parts = [
            r if isinstance(r, bytes) else r.encode() if isinstance(r, str) else json.dumps(r).encode() for r in rows
        ]
        content = start + b"".join(part + end.encode() for part in parts)
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return str(path)

    return write


def raw(name: str, content: bytes) -> Write:
    """Return a function that writes bytes."""

    def write(folder: Path) -> str:
        (folder / name).write_bytes(content)
        return str(folder / name)

    return write


def parquet(*rows: dict[str, Any]) -> Write:
    """Return a function that writes rows as Parquet: mappings of a column get the same keys, with nulls."""

    def write(folder: Path) -> str:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(list(rows)), folder / "data.parquet")
        return str(folder / "data.parquet")

    return write


@dataclass(frozen=True)
class Case:
    """One file, and what a check finds in it."""

    name: str
    write: Write
    found: Mapping[str, int]
    """Rule → count. Nothing else is found."""
    code: str = ""
    """The code that the case is about."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    rows: int | None = None
    """Rows of the file; None: not asserted."""
    needs_model: bool = False


BAD_LINE = '{"prompt": "a", "chosen": '
LATIN = '{"prompt": "caf\xe9 au lait", "chosen": "oui oui", "rejected": "non non"}'.encode("latin-1")
SURROGATE = '{"prompt": "half \\ud800 of it", "chosen": "yes it is", "rejected": "no it is not"}'
CALL = {"type": "function", "function": {"name": "look", "arguments": {"at": "sky"}}}


def truncated_gzip(folder: Path) -> str:
    """Write a compressed file that ends early."""
    content = gzip.compress(b"".join(json.dumps(good(i)).encode() + b"\n" for i in range(2000)))
    (folder / "data.jsonl.gz").write_bytes(content[: len(content) // 2])
    return str(folder / "data.jsonl.gz")


def with_eval(train: Write, *rows: object) -> Write:
    """Return a function that writes training data, and evaluation data beside it as eval.jsonl."""

    def write(folder: Path) -> str:
        lines(*rows, name="eval.jsonl")(folder)
        return train(folder)

    return write


def many(count: int, make: Callable[[int], dict[str, Any]]) -> Write:
    """Return a function that writes many rows."""
    return lines(*(make(i) for i in range(count)))


def repeated(i: int) -> dict[str, Any]:
    """Return a pair whose responses begin with the prompt."""
    pair = good(i)
    return {**pair, **{k: f" {pair['prompt']}\n{pair[k]}" for k in ("chosen", "rejected")}}


def longer(i: int) -> dict[str, Any]:
    """Return a pair whose chosen response is the longer one."""
    return good(i, chosen=words(f"c{i}", 20))


def listed(i: int) -> dict[str, Any]:
    """Return a pair whose chosen response is a list; the other one has the same length."""
    a, b = words(f"c{i}", 6), words(f"d{i}", 6)
    return good(i, chosen=f"- {a}\n- {b}", rejected=f"{b} {a} yes")


FINE = (
    Case("good pairs", lines(*(good(i) for i in range(6))), {}, rows=6),
    Case("BOM at the start", lines(good(0), good(1), start=codecs.BOM_UTF8), {}, rows=2),
    Case("CRLF", lines(good(0), good(1), end="\r\n"), {}, rows=2),
    Case(
        "UTF-16 with its mark",
        raw("data.jsonl", "\n".join(json.dumps(good(i)) for i in range(3)).encode("utf-16")),
        {},
        rows=3,
    ),
    Case("conversations", lines(chat(0), chat(1, "system", "user"), chat(2, "user", "assistant", "user")), {}, rows=3),
    Case("200 turns", lines(chat(0, *(["user", "assistant"] * 100)[:-1]), chat(1)), {}, rows=2),
    Case(
        "nulls that Arrow adds",
        parquet(
            chat(0),
            {**chat(1), "prompt": [{"role": "user", "content": "look at " + words(1), "name": "ann"}]},
        ),
        {},
        rows=2,
    ),
    Case("list of structs in Parquet", parquet(*(chat(i, "user", "assistant", "user") for i in range(3))), {}, rows=3),
    Case(
        "tool calls",
        lines(
            {
                **chat(0),
                "prompt": [
                    {"role": "user", "content": words(9)},
                    {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]},
                    {"role": "tool", "content": "blue"},
                    {"role": "tool", "content": "grey"},
                ],
            }
        ),
        {},
        rows=1,
    ),
    Case(
        "lists with scores",
        lines(
            *(
                {"prompt": words(i), "completions": [words(f"{i}{k}") for k in "abc"], "scores": [3, 2, 1]}
                for i in range(3)
            )
        ),
        {},
        rows=3,
    ),
    Case("labels", lines(*(unpaired(i, i % 2 == 0) for i in range(8))), {}, rows=8),
    Case("demonstrations", lines(*({"messages": turns("user", "assistant", seed=i)} for i in range(3))), {}, rows=3),
    Case("CSV", raw("data.csv", b"prompt,chosen,rejected\nwhat is it,a fine thing,no such thing\n"), {}, rows=1),
)
"""Files in which nothing is wrong."""

BROKEN = (
    Case("a damaged line", lines(good(0), BAD_LINE, good(1)), {"malformed_json": 1}, "D01", rows=3),
    Case("mixed encodings", lines(good(0), LATIN, good(1)), {"invalid_unicode": 1}, "D01", rows=3),
    Case("lone surrogate", lines(good(0), SURROGATE), {"invalid_unicode": 1}, "D01", rows=2),
    Case("truncated gzip", truncated_gzip, {"damaged": 1}, "D01"),
    Case("not compressed", raw("data.jsonl.gz", b'{"prompt": "a"}\n'), {"damaged": 1}, "D01", rows=0),
    Case(
        "a BOM in the middle",
        lines(good(0), codecs.BOM_UTF8 + json.dumps(good(1)).encode()),
        {"malformed_json": 1},
        "D01",
    ),
    Case("UTF-16 without its mark", raw("data.jsonl", json.dumps(good(0)).encode("utf-16-le")), {"not_utf8": 1}, "D01"),
    Case("an unknown column", lines(good(0, zzz=1)), {"columns": 1}, "D01"),
    Case("a number as text", lines(good(0), good(1, chosen=7)), {"wrong_type": 1}, "D01", rows=2),
    Case("null prompt", lines(good(0), good(1, prompt=None)), {"missing_value": 1}, "D01", rows=2),
    Case("an empty file", raw("data.jsonl", b""), {"no_rows": 1}, "D01", rows=0),
    Case(
        "a row with another number of fields",
        raw("data.csv", b"prompt,chosen,rejected\na b c,d e f,g h i\nj,k\n"),
        {"malformed_csv": 1},
        "D01",
        rows=2,
    ),
    Case(
        "a stray quote in CSV",
        raw("data.csv", b'prompt,chosen,rejected\na b c,d e f,g h i\n"j"x,k,l\n'),
        {"damaged": 1},
        "D01",
    ),
    Case("nothing can be read", lines(BAD_LINE, BAD_LINE), {"malformed_json": 2}, "D01", rows=2),
    Case("an empty response", lines(good(0), good(1, chosen="  \n")), {"empty_response": 1}, "D02", rows=2),
    Case("null response in Parquet", parquet(good(0), good(1, rejected=None)), {"empty_response": 1}, "D02", rows=2),
    Case("an empty prompt", lines(good(0), good(1, prompt=" ")), {"empty_prompt": 1}, "D02", rows=2),
    Case(
        "equal responses",
        lines(good(0), good(1, chosen="the same", rejected="the same")),
        {"identical_responses": 1},
        "D03",
    ),
    Case(
        "equal but for white space",
        lines(good(0), good(1, chosen="the  same\n", rejected="the same")),
        {"equal_after_normalisation": 1},
        "D03",
    ),
    Case(
        "equal but for composition",
        lines(good(0), good(1, chosen="caf\u00e9 noir", rejected="cafe\u0301 noir")),
        {"equal_after_normalisation": 1},
        "D03",
    ),
    Case("a row twice", lines(good(0), good(1), good(0)), {"duplicate": 1}, "D04", rows=3),
    Case("a row three times", lines(good(0), good(0), good(0), good(1)), {"duplicate": 2}, "D04"),
    Case(
        "opposite labels",
        lines(good(0), good(0, chosen=good(0)["rejected"], rejected=good(0)["chosen"])),
        {"opposite_label": 2},
        "D04",
    ),
    Case(
        "opposite labels of one response",
        lines(unpaired(0, True), unpaired(0, False), unpaired(1, True)),
        {"opposite_label": 2},
        "D04",
    ),
    Case(
        "a near prompt",
        lines(good(0, prompt=words("n", 60)), good(1, prompt=words("n", 60) + " again")),
        {"near_prompt": 1},
        "D05",
    ),
    Case(
        "near responses",
        lines(
            good(0, chosen=words("n", 40), rejected=words("m", 40)),
            good(1, chosen=words("n", 40) + " now", rejected=words("m", 40)),
        ),
        {"near_responses": 1},
        "D05",
    ),
    Case(
        "transcripts without a common prompt",
        lines({"chosen": "\n\nHuman: a\n\nAssistant: b b", "rejected": "\n\nHuman: c\n\nAssistant: d d"}),
        {"no_common_prompt": 1},
        "D06",
    ),
    Case(
        "conversations without a common prompt",
        lines({"chosen": turns("user", "assistant", seed=1), "rejected": turns("user", "assistant", seed=2)}),
        {"no_common_prompt": 1},
        "D06",
    ),
    Case(
        "another prompt in the conversation",
        lines(
            {
                **chat(0),
                "prompt": "who is it?",
                "chosen": turns("user", "assistant", seed=3),
                "rejected": turns("user", "assistant", seed=4),
            }
        ),
        {"prompt_mismatch": 1},
        "D06",
    ),
    Case(
        "the prompt in both responses",
        lines(good(0), repeated(1), good(2, chosen=f"{good(2)['prompt']} and more")),
        {"prompt_in_responses": 1},
        "D06",
    ),
    Case("the question in the answer", lines(repeated(1), repeated(2)), {"prompt_in_responses": 2}, "D06"),
    Case("two user turns", lines(chat(0), chat(1, "user", "user")), {"role_order": 1}, "D07"),
    Case("an unknown role", lines(chat(0), chat(1, "narrator")), {"role_order": 1}, "D07"),
    Case("a late system turn", lines(chat(0, "user", "assistant", "system", "user")), {"system_not_first": 1}, "D07"),
    Case("an empty turn", lines({**chat(0), "prompt": [{"role": "user", "content": ""}]}), {"empty_turn": 1}, "D07"),
    Case("a result without a call", lines(chat(0, "user", "tool")), {"tool_pairing": 1}, "D07"),
    Case(
        "the last turn is the user's",
        lines({"messages": turns("user", seed=1)}, {"messages": turns("user", "assistant", seed=2)}),
        {"no_response": 1},
        "D07",
    ),
    Case(
        "a template in the text",
        lines(good(0), good(1, prompt="<|im_start|>user\nhi<|im_end|>")),
        {"template_in_text": 1},
        "D08",
    ),
    Case("an instruction mark", lines(good(0, prompt="[INST] do it [/INST]")), {"template_in_text": 1}, "D08"),
    Case("longer wins", many(60, longer), {"length_bias": 60}, "D10"),
    Case(
        "longer labels",
        many(80, lambda i: unpaired(i, i % 2 == 0, completion=words(f"c{i}", 20 - 8 * (i % 2)))),
        {"length_predicts_label": 80},
        "D10",
    ),
    Case("lists win", many(60, listed), {"style_lists": 60}, "D11"),
    Case(
        "a model's name",
        lines(good(0), good(1, chosen="As an AI language model, I can say this")),
        {"model_identity": 1},
        "D11",
    ),
    Case("one label", lines(*(unpaired(i, True) for i in range(4))), {"one_label": 4}, "D12"),
    Case("a rare label", lines(*(unpaired(i, i > 0) for i in range(12))), {"unbalanced_labels": 1}, "D12"),
    Case(
        "a score against the label",
        lines(good(0, score_chosen=1, score_rejected=2), good(1, score_chosen=2, score_rejected=1)),
        {"score_contradicts": 1},
        "D12",
    ),
    Case("equal scores", lines(good(0, score_chosen=2, score_rejected=2)), {"equal_scores": 1}, "D12"),
    Case("a tie", lines(good(0, preference=0.5), good(1, preference=0.9)), {"tied_pair": 1}, "D12"),
    Case(
        "a list of ties",
        lines({"prompt": words(1), "completions": [words(2), words(3)], "scores": [1, 1]}),
        {"no_comparison": 1},
        "D12",
    ),
    Case(
        "one source",
        lines(*(good(i, source="b" if i == 0 else "a") for i in range(12))),
        {"unbalanced_sources": 11},
        "D12",
    ),
    Case(
        "a shared prompt",
        with_eval(lines(good(0), good(1)), good(5, prompt=good(1)["prompt"])),
        {"shared_prompt": 1},
        "D13",
        {"eval": "eval.jsonl"},
        rows=3,
    ),
    Case(
        "an overlapping prompt",
        with_eval(
            lines(good(0), good(1, prompt="so: " + words("e", 30))), good(5, prompt=words("e", 30) + " and more of it")
        ),
        {"overlapping_prompt": 1, "near_prompt": 1},
        "D13",
        {"eval": "eval.jsonl"},
    ),
    Case(
        "a common passage",
        with_eval(
            lines(good(1, prompt=words("e", 14) + " " + words("x", 30))),
            good(5, prompt=words("y", 40) + " " + words("e", 14)),
        ),
        {"common_passage": 1},
        "D13",
        {"eval": "eval.jsonl"},
    ),
    Case("a lost character", lines(good(0, chosen="it is \ufffd good")), {"replacement_character": 1}, "D15"),
    Case(
        "hidden characters",
        lines(good(0, prompt="a\u200bb\u202ec", rejected="d\x07e")),
        {"zero_width": 1, "bidi_control": 1, "control_character": 1},
        "D15",
    ),
    Case("letters that look alike", lines(good(0, chosen="p\u0430ypal is it")), {"mixed_scripts": 1}, "D15"),
    Case("a huge row", lines(good(0), good(1, rejected="word " * 250_000)), {"huge_row": 1}, "D17"),
    Case(
        "a far longer row",
        lines(*(good(i) for i in range(120)), good(999, prompt=words("w", 3000))),
        {"far_longer": 1},
        "D17",
    ),
    Case(
        "two huge rows in Parquet",
        parquet(good(0, prompt=words("a", 200_000)), good(1, prompt=words("b", 200_000))),
        {"huge_row": 2},
        "D17",
    ),
)
"""Files in which something is wrong."""
