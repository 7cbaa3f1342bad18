"""The prompt ends between turns, never inside words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiltlm.data.accounting import Defect
from tiltlm.data.rows.cells import TokenContent
from tiltlm.data.rows.prompts import ASSISTANT, is_blank, join, shorter_prompts, split_conversation, split_pair


def turns(*pairs):
    return tuple({"role": role, "content": content} for role, content in pairs)


USER = turns(("user", "sky?"))
BLUE = turns(("assistant", "blue"))
BLACK = turns(("assistant", "black"))


def test_transcripts_split_at_the_last_assistant_turn():
    start = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: sky?\n\nAssistant:"
    assert split_pair(start + " blue", start + " black") == (start, " blue", " black")


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_a_shared_start_of_the_answers_stays_in_them(question, chosen, rejected):
    """The prompt ends with the start of the assistant turn, however much of the two responses is equal."""
    start = f"\n\nHuman: {question}{ASSISTANT}"
    if ASSISTANT in chosen + rejected or ASSISTANT in question:
        return
    assert split_pair(f"{start} The sky is bl{chosen}", f"{start} The sky is bl{rejected}") == (
        start, f" The sky is bl{chosen}", f" The sky is bl{rejected}",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [
        ("\n\nHuman: a\n\nAssistant: x", "\n\nHuman: b\n\nAssistant: y"),
        ("\n\nHuman: a\n\nAssistant: x", "\n\nHuman: a\n\nAssistant: x\n\nHuman: more\n\nAssistant: y"),
        ("The sky is blue", "The sky is black"),
        ("\n\nHuman: a\n\nAssistant: x", "no transcript"),
        (USER + BLUE, turns(("user", "sea?")) + BLACK),
        (USER + BLUE, USER + BLUE + USER + BLACK),
        (USER + BLUE + USER + BLUE, USER + BLACK + USER + BLUE),
        (BLUE, BLACK),
        (USER, USER + BLUE),
    ],
    ids=["question", "longer", "no transcript", "one transcript", "turns", "prefix", "user turns", "no prompt", "none"],
)
def test_no_common_prompt(chosen, rejected):
    with pytest.raises(Defect) as caught:
        split_pair(chosen, rejected)
    assert caught.value.code == "no_common_prompt"


def test_conversations_split_between_turns():
    assert split_pair(USER + BLUE, USER + BLACK) == (USER, BLUE, BLACK)
    longer = USER + BLUE + USER
    assert split_pair(longer + BLUE, longer + BLACK) == (longer, BLUE, BLACK)
    look = turns(("assistant", "look"), ("tool", "dark"))
    assert split_pair(USER + look + BLACK, USER + BLUE) == (USER, look + BLACK, BLUE)


@pytest.mark.parametrize(
    ("prompt", "response", "joined"),
    [
        ("sky?", " blue", ("sky?", " blue")),
        ("sky?", BLUE, (USER, BLUE)),
        (USER, "blue", (USER, BLUE)),
        (USER, BLUE, (USER, BLUE)),
        (USER, USER + BLUE, (USER, BLUE)),
        ("sky?", USER + BLUE, (USER, BLUE)),
    ],
    ids=["text", "answer turns", "prompt turns", "turns", "repeated", "UltraFeedback"],
)
def test_explicit_prompts(prompt, response, joined):
    assert join(prompt, response) == joined


@pytest.mark.parametrize("response", [(), USER, BLUE + USER])
def test_an_answer_is_the_assistants(response):
    with pytest.raises(Defect) as caught:
        join(USER, response)
    assert caught.value.code == "no_response"


def test_split_conversation_at_last_or_first_answer():
    whole = USER + BLUE + USER + BLACK
    assert split_conversation(whole) == (USER + BLUE + USER, BLACK)
    assert split_conversation(whole, first=True) == (USER, BLUE + USER + BLACK)
    for bad in (USER, (), BLUE + USER):
        with pytest.raises(Defect) as caught:
            split_conversation(bad)
        assert caught.value.code == "no_response"


@pytest.mark.parametrize(
    ("response", "blank"),
    [
        ("", True),
        (" \n\t", True),
        ("a", False),
        (turns(("assistant", " ")), True),
        (BLUE, False),
        (({"role": "assistant", "content": "", "tool_calls": [{"name": "look"}]},), False),
        (turns(("assistant", ""), ("tool", "dark")), True),
    ],
)
def test_blank(response, blank):
    assert is_blank(response) is blank


SYSTEM = turns(("system", "be brief"))
FIRST = turns(("user", "a"), ("assistant", "b"))
SECOND = turns(("user", "c"), ("assistant", "look"), ("tool", "d"), ("assistant", "e"))
LAST = turns(("user", "f"))


@pytest.mark.parametrize("head", [(), SYSTEM, turns(("developer", "x"), ("system", "y"))])
def test_shorter_conversations_keep_the_system_and_open_with_the_user(head):
    """No response and no tool result is left without the turn before it."""
    assert shorter_prompts(head + FIRST + SECOND + LAST) == [head + SECOND + LAST, head + LAST]
    assert shorter_prompts(head + LAST) == []


def test_an_opening_by_the_assistant_goes_first():
    assert shorter_prompts(FIRST[1:] + LAST) == [LAST]


def test_shorter_transcripts():
    start = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d\n\nHuman: e\n\nAssistant:"
    assert shorter_prompts(start) == [
        "\n\nHuman: c\n\nAssistant: d\n\nHuman: e\n\nAssistant:",
        "\n\nHuman: e\n\nAssistant:",
    ]


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "plain text",
        "\n\nHuman: a\n\nAssistant:",
        "\n\nHuman: a\n\nHuman: b",
        "x\n\nHuman: a\n\nAssistant:",
        TokenContent((1, 2)),
    ],
)
def test_without_turns_nothing_is_shorter(prompt):
    assert shorter_prompts(prompt) == []
