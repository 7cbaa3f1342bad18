"""Find where the prompt ends: explicit prompts, transcripts, and conversations that share their first turns.

Texts are split between turns only, never between characters: "The sky is blue" and "The sky is black" do not have the
common prompt "The sky is bl".
"""

import re
from collections.abc import Sequence

from tiltlm.data.accounting import Defect, excerpt
from tiltlm.data.data_settings import DataSettings
from tiltlm.data.rows.cells import Content, Conversation, Message, TokenContent

HUMAN = "\n\nHuman:"
"""Start of a user turn in Anthropic's transcripts."""
ASSISTANT = "\n\nAssistant:"
"""Start of an assistant turn in Anthropic's transcripts. The prompt ends with it."""

INSTRUCTIONS = ("system", "developer")
"""Roles of the turns that may stand before the user's first one."""


def join(prompt: Content, response: Content) -> tuple[Content, Content]:
    """Return an explicit prompt and a response in the same form: both text, both turns, or both token ids.

    If only one of them is text, it becomes a turn: a prompt the user's, a response the assistant's. If a response
    repeats the turns of the prompt (UltraFeedback), they are removed from it.

    Raises:
        Defect: The response does not start and end with an assistant turn.
    """
    if isinstance(prompt, TokenContent) or isinstance(response, TokenContent):
        assert type(prompt) is type(response), "`detect` accepts token ids only for prompt and responses together"
        return prompt, response
    if isinstance(prompt, str) and isinstance(response, str):
        return split_transcript(response) if _repeats_transcript(prompt, response) else (prompt, response)
    repeated = None if isinstance(response, str) else split_repeated(prompt, response)
    turns, answer = repeated or (as_turns(prompt, "user"), as_turns(response, "assistant"))
    if not answer or answer[0]["role"] != "assistant" or answer[-1]["role"] != "assistant":
        roles = ", ".join(turn["role"] for turn in answer) or "nothing"
        raise Defect("no_response", f"the turns after the prompt are: {roles}")
    return turns, answer


def as_turns(content: str | Conversation, role: str) -> Conversation:
    """Return text as one turn of this role, and turns as they are."""
    return ({"role": role, "content": content},) if isinstance(content, str) else content


def whole_conversation(prompt: Content, response: Content) -> str | Conversation | None:
    """Return a response that repeats its prompt, with all system turns; None if it only continues the prompt.

    Raises:
        Defect: The response is a whole conversation, but with another prompt.
    """
    if isinstance(prompt, TokenContent) or isinstance(response, TokenContent):
        return None
    if isinstance(response, str):
        return response if _repeats_transcript(prompt, response) else None
    repeated = split_repeated(prompt, response)
    return None if repeated is None else repeated[0] + repeated[1]


def _repeats_transcript(prompt: str | Conversation, response: str) -> bool:
    """Return True if a response is a whole transcript; raise if it begins with another prompt."""
    if not (isinstance(prompt, str) and response.startswith(HUMAN) and ASSISTANT in response):
        return False
    question = prompt.strip().removeprefix(HUMAN.strip()).lstrip()
    if not response.removeprefix(HUMAN).lstrip().startswith(question):
        raise Defect("prompt_mismatch", f"prompt {excerpt(prompt)}, response {excerpt(response)}")
    return True


def split_repeated(prompt: str | Conversation, response: Conversation) -> tuple[Conversation, Conversation] | None:
    """Split a response that repeats its prompt: a whole conversation beside its first turns.

    White space at the ends of turns does not count. System turns may be missing in one of the two.

    Returns:
        The prompt with all system turns, and the turns after it. None: the response only continues the prompt.

    Raises:
        Defect: The response is a whole conversation, but with another prompt.
    """
    own, repeated = (_head(turns) for turns in (as_turns(prompt, "user"), response))
    question, rest = as_turns(prompt, "user")[len(own) :], response[len(repeated) :]
    if isinstance(prompt, str) and not prompt.strip():
        question = ()
    is_whole = bool(question) and len(rest) >= len(question) and all(map(_equal, question, rest))
    if not is_whole and not (rest and rest[0]["role"] == "user"):
        return None
    if (question and not is_whole) or (own and repeated and own != repeated):
        seen = f"prompt {excerpt(question)}, conversation {excerpt(rest[: len(question)])}"
        raise Defect("prompt_mismatch", seen if not is_whole else "their system turns differ")
    end = len(question) or next((i for i, turn in enumerate(rest) if turn["role"] == "assistant"), len(rest))
    return (own or repeated) + rest[:end], rest[end:]


def _head(turns: Conversation) -> Conversation:
    """Return the system turns at the start."""
    length = next((i for i, turn in enumerate(turns) if turn["role"] not in INSTRUCTIONS), len(turns))
    return turns[:length]


def _equal(a: Message, b: Message) -> bool:
    return {**a, "content": a["content"].strip()} == {**b, "content": b["content"].strip()}


def move_shared_turns(prompt: Content, responses: Sequence[Content]) -> tuple[Content, ...]:
    """Move the first turns that all responses share to the prompt: they say nothing about which one is better.

    Returns:
        The prompt, then what remains of each response: at least one turn, the first of which is the assistant's.
    """
    turns = [response for response in responses if isinstance(response, tuple)]
    if not isinstance(prompt, tuple) or len(turns) < len(responses) or len(turns) < 2:
        return prompt, *responses
    shared = 0
    for k in range(1, min(map(len, turns))):
        if any(response[k - 1] != turns[0][k - 1] for response in turns):
            break
        if all(response[k]["role"] == "assistant" for response in turns):
            shared = k
    return prompt + turns[0][:shared], *(response[shared:] for response in turns)


def wrapped(prompt: str, responses: Sequence[str], system: str) -> tuple[Conversation, tuple[Conversation, ...]]:
    """Return text as turns: the prompt the user's, each response the assistant's.

    Anthropic's transcripts become their turns. White space at the ends of turns is removed.
    """
    head: Conversation = ({"role": "system", "content": system},) if system else ()
    turns = _transcript_turns(prompt) or ({"role": "user", "content": prompt.strip()},)
    return head + turns, tuple(({"role": "assistant", "content": response.strip()},) for response in responses)


def is_transcript(prompt: str) -> bool:
    """Return True for a prompt in Anthropic's form: it starts with a turn of the user and ends with `ASSISTANT`."""
    return prompt.startswith(HUMAN) and prompt.rstrip().endswith(ASSISTANT)


def becomes_turns(prompt: str, settings: DataSettings, has_template: bool) -> bool:
    """Return whether text becomes turns.

    Args:
        prompt: The prompt of the row.
        settings: Of these, `as_chat` and `transcripts` are used. The latter decides for transcripts, if it is given.
        has_template: True if there is a chat template. Without one, text stays text.
    """
    is_wanted = settings.as_chat is not False
    if settings.transcripts is not None and is_transcript(prompt):
        is_wanted = settings.transcripts == "messages"
    return has_template and is_wanted


def _transcript_turns(text: str) -> Conversation:
    """Return the turns of a transcript; none for other text."""
    if not is_transcript(text):
        return ()
    _, *parts = re.split(r"\n\n(Human|Assistant):", text)
    roles = {"Human": "user", "Assistant": "assistant"}
    turns = [
        {"role": roles[name], "content": content.strip()} for name, content in zip(*[iter(parts)] * 2, strict=True)
    ]
    return tuple(turns[:-1])


def split_pair(chosen: Content, rejected: Content) -> tuple[Content, Content, Content]:
    """Split two whole texts or conversations into prompt, chosen response and rejected response.

    Raises:
        Defect: The two differ before their last assistant turn.
    """
    assert not isinstance(chosen, TokenContent), "token ids have a column of prompts"
    assert not isinstance(rejected, TokenContent)
    if isinstance(chosen, str) and isinstance(rejected, str):
        prompt, chosen_response = split_transcript(chosen)
        other, rejected_response = split_transcript(rejected)
        if prompt != other:
            seen = f"chosen: {excerpt(prompt[-40:])}, rejected: {excerpt(other[-40:])}"
            raise Defect("no_common_prompt", f"the prompts end differently; {seen}")
        return prompt, chosen_response, rejected_response
    if isinstance(chosen, str) or isinstance(rejected, str):
        raise Defect("wrong_type", "one of chosen and rejected is text, the other is a conversation")
    common = _common_turns(chosen, rejected)
    return chosen[:common], chosen[common:], rejected[common:]


def split_transcript(text: str) -> tuple[str, str]:
    """Split a transcript after its last `ASSISTANT` into prompt and response."""
    start = text.rfind(ASSISTANT)
    if start < 0:
        raise Defect("no_common_prompt", f"no turn starts with {ASSISTANT!r} in {excerpt(text)}")
    return text[: start + len(ASSISTANT)], text[start + len(ASSISTANT) :]


def split_conversation(turns: Conversation, *, first: bool = False) -> tuple[Conversation, Conversation]:
    """Split a conversation before its last assistant turn, or before its first one."""
    if not turns or turns[-1]["role"] != "assistant":
        seen = f"the role of the last turn is {turns[-1]['role']}" if turns else "there are no turns"
        raise Defect("no_response", seen)
    start = len(turns) - 1
    if first:
        start = next(i for i, turn in enumerate(turns) if turn["role"] == "assistant")
    return turns[:start], turns[start:]


def _common_turns(chosen: Conversation, rejected: Conversation) -> int:
    """Return how many first turns are the prompt. The turns after it start with the assistant and have no user turn."""
    common = 0
    for a, b in zip(chosen[:-1], rejected[:-1], strict=False):
        if a != b:
            break
        common += 1
    for response in (chosen[common:], rejected[common:]):
        roles = [turn["role"] for turn in response]
        if not roles or roles[0] != "assistant" or "user" in roles or common == 0:
            seen = " and ".join(
                turns[common]["role"] if common < len(turns) else "nothing" for turns in (chosen, rejected)
            )
            raise Defect("no_common_prompt", f"the conversations differ at turn {common + 1}, whose roles are {seen}")
    return common


def shorter_prompts(prompt: Content) -> list[Content]:
    """Return all shorter prompts made by removing the oldest turns, longest first.

    Each starts with a user turn, the shortest with the last user turn. System turns at the start stay. Anthropic's
    transcripts have turns too. Other text and token ids have none, so the list is empty.
    """
    if isinstance(prompt, TokenContent):
        return []
    if isinstance(prompt, str):
        if not is_transcript(prompt):
            return []
        _, _, *later = prompt.split(HUMAN)
        return [HUMAN + HUMAN.join(later[k:]) for k in range(len(later))]
    head = len(_head(prompt))
    starts = [i for i, turn in enumerate(prompt) if turn["role"] == "user" and i > head]
    return [prompt[:head] + prompt[start:] for start in starts]


def is_blank(response: Content) -> bool:
    """Return True if a response has no text and no tool call."""
    if isinstance(response, TokenContent):
        return not response.ids
    if isinstance(response, str):
        return not response.strip()
    return not any(
        turn.get("tool_calls") or turn["content"].strip() for turn in response if turn["role"] == "assistant"
    )
