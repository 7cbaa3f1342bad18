"""Find where the prompt ends: explicit prompts, transcripts, and conversations that share their first turns.

Texts are split between turns only, never between characters: "The sky is blue" and "The sky is black" do not have the
common prompt "The sky is bl".
"""

from tiltlm.data.accounting import Defect, excerpt
from tiltlm.data.rows.cells import Content, Conversation, Message, TokenContent

HUMAN = "\n\nHuman:"
"""Start of a user turn in Anthropic's transcripts."""
ASSISTANT = "\n\nAssistant:"
"""Start of an assistant turn in Anthropic's transcripts. The prompt ends with it."""


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
        return prompt, response
    if isinstance(prompt, str):
        prompt = ({"role": "user", "content": prompt},)
    if isinstance(response, str):
        response = ({"role": "assistant", "content": response},)
    if prompt and response[: len(prompt)] == prompt:
        response = response[len(prompt) :]
    if not response or response[0]["role"] != "assistant" or response[-1]["role"] != "assistant":
        roles = ", ".join(turn["role"] for turn in response) or "nothing"
        raise Defect("no_response", f"the turns after the prompt are: {roles}")
    return prompt, response


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
            raise Defect("no_common_prompt", f"the conversations differ at turn {common + 1}")
    return common


def shorter_prompts(prompt: Content) -> list[Content]:
    """Return all shorter prompts made by removing the oldest turns, longest first.

    Each starts with a user turn, the shortest with the last user turn. System turns at the start stay. Anthropic's
    transcripts have turns too. Other text and token ids have none, so the list is empty.
    """
    if isinstance(prompt, TokenContent):
        return []
    if isinstance(prompt, str):
        if not (prompt.startswith(HUMAN) and prompt.endswith(ASSISTANT)):
            return []
        _, _, *later = prompt.split(HUMAN)
        return [HUMAN + HUMAN.join(later[k:]) for k in range(len(later))]
    head = next((i for i, turn in enumerate(prompt) if turn["role"] not in ("system", "developer")), len(prompt))
    starts = [i for i, turn in enumerate(prompt) if turn["role"] == "user" and i > head]
    return [prompt[:head] + prompt[start:] for start in starts]


def is_blank(response: Content) -> bool:
    """Return True if a response has no text and no tool call."""
    if isinstance(response, TokenContent):
        return not response.ids
    if isinstance(response, str):
        return not response.strip()
    return not any(_has_content(turn) for turn in response if turn["role"] == "assistant")


def _has_content(turn: Message) -> bool:
    content = turn["content"]
    text = content if isinstance(content, str) else "".join(part["text"] for part in content)
    return bool(turn.get("tool_calls") or text.strip())
