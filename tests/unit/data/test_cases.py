"""Inputs that failed or were awkward, beside the checkout: each is read as its author meant it, or refused."""

from pathlib import Path

import pytest

from support.tokenizers_and_templates import CHATML, byte_level
from tiltlm.core.errors import TiltError
from tiltlm.data import DataSettings, check_sources, load_data, read_columns
from tiltlm.data.tokens.encoder import Encoder
from tiltlm.recipes.data.convert import ConvertRequest, ConvertSettings, convert

CASES = Path(__file__).resolve().parents[4] / "shared" / "cases"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="needs the inputs of the shared folder beside the checkout")

TOOLS = "{% if tools %}{{ tools | tojson }}{% endif %}" + CHATML.replace(
    "{{ m.content }}", "{{ m.content }}{% if m.tool_calls %}{{ m.tool_calls[0].function | tojson }}{% endif %}"
)
"""A template that writes tools and the first tool call of a turn."""

TODAY = ("user\nToday about like like me mat think how.", "In is a today that the hello.", "Good like cat not fine")
AND_SURE = (
    "user\nAnd sure a no how my like and is",
    "Much think the the bad no fine",
    "Question sure yes a the the tea",
)
KTO = ("user\nMy dog not me on i think good tea yes much.", "Please mat said weather in and to on.")
SHARED = "assistant\nWhat question said tell please cat.<|im_end|>\n<|im_start|>user\nThat sure you tell thank."
PARIS = ('"properties": {"city": {"type": "string"}}', '"arguments": {"city": "paris"}}<|im_end|>', "Good like cat")
ADD_USERS = ("user\nHow can I add 21 users to my team?", "Add them somewhere", "Go to Team")

READ = {
    "capybara.jsonl": (24, (SHARED, *TODAY[1:])),
    "chat.jsonl.gz": (298, ADD_USERS),
    "compare.csv.gz": (298, ADD_USERS),
    "conv_json.csv": (24, TODAY),
    "conv_jsonstr.jsonl": (24, TODAY),
    "conv_repr.csv": (24, TODAY),
    "distilabel.jsonl": (23, TODAY),
    "flat": (18, TODAY),
    "helpsteer3.jsonl": (24, (TODAY[0], TODAY[2], TODAY[1])),
    "kto_tag.jsonl": (24, TODAY[:2]),
    "nectar.jsonl": (24, TODAY),
    "orca.jsonl": (24, ("system\nYou are brief.<|im_end|>\n<|im_start|>" + TODAY[0], *TODAY[1:])),
    "pairs.csv.gz": (299, ADD_USERS),
    "pairs_swapped.csv.gz": (299, ADD_USERS),
    "semicolon.csv": (24, AND_SURE),
    "sharegpt.jsonl": (24, TODAY),
    "tools.parquet": (24, PARIS),
    "torn0.jsonl": (40, AND_SURE),
    "torn2.jsonl": (40, AND_SURE),
    "tsv.tsv": (24, AND_SURE),
    "utf16.jsonl": (24, AND_SURE),
    "reports/02-arrow-nulls-in-tool-calls/tools.jsonl": (24, PARIS),
    "reports/02-arrow-nulls-in-tool-calls/tools.parquet": (24, PARIS),
    "reports/04-splits-in-a-folder/flat": (18, TODAY),
    "reports/04-splits-in-a-folder/flat_infos": (18, TODAY),
    "reports/04-splits-in-a-folder/hubdir": (18, TODAY),
    "reports/05-shared-turns-scored/capybara.jsonl": (24, (SHARED, *TODAY[1:])),
    "reports/05-shared-turns-scored/capybara_noprompt.jsonl": (24, (SHARED, *TODAY[1:])),
    "reports/08-prompt-ends-with-the-assistant/prefill.jsonl": (24, ("assistant\nSure, ", "That i the", "Cat you")),
    "reports/10-kto-one-label/kto_pm1_rare.jsonl": (100, KTO),
    "reports/16-reward-model-line-break/uf.parquet": (40, ("user\nTea no sat mat", "Cat thank like", "It the very")),
    "reports/17-messages/argstr.jsonl": (24, ("user\nDog you and it", '"arguments": {"c": "p"}}<|im_end|>', "Quest")),
    "reports/17-messages/arr.json": (24, AND_SURE),
    "reports/17-messages/arr.json.gz": (24, AND_SURE),
    "reports/17-messages/parts.jsonl": (24, ("user\nLike you much tell fine.<|im_end|>", "Me think me much.", "Very")),
    "reports/17-messages/role_caps.jsonl": (24, ("user\nOn cat me on that.", "Yes me think on.", "The thank mat is.")),
    "reports/17-messages/sharegpt.jsonl": (24, TODAY),
    "reports/17-messages/uf_sys.jsonl": (24, ("system\nBe brief.", "Very about how about.", "On what my that maybe.")),
    "reports/17-messages/uf_ws.jsonl": (24, ("user\nMaybe a sat think is.<|im_end|>", "Very sure mat much.", "You is")),
    "reports/17-messages/utf16.jsonl": (24, AND_SURE),
}  # fmt: skip
"""Input → its number of training rows, and texts that the prompt and the responses of the first row have."""

REFUSED = {
    "argilla.jsonl": ("unknown_column", "data.ignore=[rank]", True),
    "images.jsonl": ("not_supported", "'images'", True),
    "kto_all_false.jsonl": ("one_label", "false", True),
    "kto_all_true.jsonl": ("one_label", "sft", True),
    "kto_one_prompt.jsonl": ("prompt_above_half", "60", False),
    "latin1.csv": ("not_utf8", "iconv -f LATIN1 -t UTF-8 latin1.csv", True),
    "reports/10-kto-one-label/kto_all_true.jsonl": ("one_label", "sft", True),
    "reports/17-messages/argilla.jsonl": ("unknown_column", "data.ignore=[rank]", True),
    "reports/18-stray-quote-in-csv/unclosed.csv": ("damaged", "unclosed.csv:12", True),
}
"""Input → code of the error, what its message must have, and whether it is found without a tokenizer."""

ELSEWHERE = frozenset({"README.md", "README", "dpo.yaml", "rm2.py"})
"""Names of files that are not data."""


@pytest.fixture(scope="module")
def chat() -> Encoder:
    tokenizer = byte_level(bos=True)
    return Encoder(tokenizer, tokenizer.eos_token_id, chat_template=TOOLS)


def requirements(name: str) -> dict:
    return {"objective_shape": "unpaired" if "kto" in name else "pairs"}


@needs_cases
@pytest.mark.parametrize("name", READ)
def test_what_is_plain_is_read(chat, name):
    settings = DataSettings(train=str(CASES / name))
    check_sources(read_columns(settings), **requirements(name))
    data = load_data(settings, chat, **requirements(name))
    num_rows, parts = READ[name]
    assert len(data.train) == num_rows
    first = data.train[0]
    texts = [chat.decode(first.prompt_ids), *(chat.decode(response.token_ids) for response in first.responses)]
    assert all(part in text for part, text in zip(parts, texts, strict=False))
    assert "system" in texts[0] or texts[0].count("<|im_start|>user") == 1 + (SHARED in texts[0])
    assert all(text.count("<|im_end|>") == 1 and "<|im_start|>" not in text for text in texts[1:])
    assert not any("null" in text for text in texts)


@needs_cases
@pytest.mark.parametrize("name", READ)
def test_what_is_read_and_written_in_our_columns_gives_the_same_examples(chat, name, tmp_path):
    out = tmp_path / "out.jsonl"
    settings = ConvertSettings(DataSettings(train=str(CASES / name)))
    convert(settings, ConvertRequest(out, "tiltlm", lossy=True))
    ours, theirs = (
        load_data(DataSettings(train=str(path), max_bad=0.5), chat, **requirements(name))
        for path in (out, CASES / name)
    )
    assert ours.fingerprint == theirs.fingerprint
    assert ours.accounting.total <= theirs.accounting.total


@needs_cases
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_plain_is_refused(chat, name):
    code, mention, is_early = REFUSED[name]
    settings = DataSettings(train=str(CASES / name))
    with pytest.raises(TiltError) as caught:
        load_data(settings, chat, **requirements(name), needs_partners="kto" in name)
    assert caught.value.code == code
    assert mention in str(caught.value)
    if is_early:
        with pytest.raises(TiltError) as caught:
            check_sources(read_columns(settings), **requirements(name))
        assert caught.value.code == code
    else:
        check_sources(read_columns(settings), **requirements(name))


@needs_cases
def test_every_input_has_a_test():
    files = {path.relative_to(CASES) for path in CASES.rglob("*") if path.is_file() and path.name not in ELSEWHERE}
    known = [Path(name) for name in (*READ, *REFUSED)]
    assert all(any(file == name or name in file.parents for name in known) for file in files)


@needs_cases
def test_parquet_and_json_lines_give_the_same_tokens(chat):
    folder = CASES / "reports" / "02-arrow-nulls-in-tool-calls"
    both = [load_data(DataSettings(train=str(folder / f"tools.{end}")), chat, "pairs") for end in ("jsonl", "parquet")]
    assert both[0].fingerprint == both[1].fingerprint


@needs_cases
@pytest.mark.parametrize("shape", ["pairs", "demonstrations"])
def test_a_prompt_column_beside_conversations_changes_nothing(chat, shape):
    folder = CASES / "reports" / "05-shared-turns-scored"
    names = ("capybara.jsonl", "capybara_noprompt.jsonl")
    both = [load_data(DataSettings(train=str(folder / name)), chat, shape) for name in names]
    assert both[0].fingerprint == both[1].fingerprint


@needs_cases
def test_a_tie_is_a_preference_of_one_half(chat):
    data = load_data(DataSettings(train=str(CASES / "compare.csv.gz")), chat, "pairs")
    assert data.train[1].comparisons[0].preference == 0.5
    assert {example.comparisons[0].preference for example in data.train} == {0.5, 1.0}


@needs_cases
def test_notes_do_not_depend_on_which_side_is_called_chosen(chat):
    pairs, swapped = (
        load_data(DataSettings(train=str(CASES / name)), chat, "pairs")
        for name in ("pairs.csv.gz", "pairs_swapped.csv.gz")
    )
    assert pairs.notes == swapped.notes


@needs_cases
def test_the_setting_that_the_refusal_of_argilla_names_reads_it(chat):
    settings = DataSettings(train=str(CASES / "argilla.jsonl"), ignore=("rank",))
    data = load_data(settings, chat, "pairs")
    assert len(data.train) == 24
    assert data.train[0].scores == (4.5, 2.0)
    assert TODAY[0] in chat.decode(data.train[0].prompt_ids)
