"""Where the prompt ends: explicit prompts, transcripts, and conversations that share their first turns.

The cut falls between turns and never between characters: "The sky is blue" and "The sky is black" have no common
prompt "The sky is bl".
"""

from tiltlm.data.accounting import Defect, excerpt
from tiltlm.data.rows.cells import Content, Conversation, Message, TokenContent

HUMAN = "\n\nHuman:"
"""What opens a user's turn in Anthropic's transcripts."""
ASSISTANT = "\n\nAssistant:"
"""What opens an assistant's turn in Anthropic's transcripts; the prompt ends with it."""


def join(prompt: Content, response: Content) -> tuple[Content, Content]:
    """An explicit prompt and a response in one form: both text, both turns, or both token ids.

    A text prompt of a conversation is the user's turn; a text response to a conversation is the assistant's. A
    response that repeats the prompt's turns (UltraFeedback) is what follows them.
    """
    if isinstance(prompt, TokenContent) or isinstance(response, TokenContent):
        assert type(prompt) is type(response), "columns of ids come together"
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
        raise Defect("no_answer", f"the prompt is followed by {roles}")
    return prompt, response


def split_pair(chosen: Content, rejected: Content) -> tuple[Content, Content, Content]:
    """Prompt, chosen and rejected of two whole texts or conversations.

    Raises:
        Defect: they do not agree up to their last assistant turn.
    """
    assert not isinstance(chosen, TokenContent), "columns of ids have one of prompts"
    assert not isinstance(rejected, TokenContent)
    if isinstance(chosen, str) and isinstance(rejected, str):
        prompt, chosen_answer = split_transcript(chosen)
        other, rejected_answer = split_transcript(rejected)
        if prompt != other:
            raise Defect("no_common_prompt", f"chosen has {excerpt(prompt[-40:])}, rejected {excerpt(other[-40:])}")
        return prompt, chosen_answer, rejected_answer
    if isinstance(chosen, str) or isinstance(rejected, str):
        raise Defect("wrong_type", "one of chosen and rejected is text, the other a conversation")
    common = _common_turns(chosen, rejected)
    return chosen[:common], chosen[common:], rejected[common:]


def split_transcript(text: str) -> tuple[str, str]:
    """A transcript up to and with its last `\\n\\nAssistant:`, and what follows it."""
    start = text.rfind(ASSISTANT)
    if start < 0:
        raise Defect("no_common_prompt", f"no turn opens with {ASSISTANT!r} in {excerpt(text)}")
    return text[: start + len(ASSISTANT)], text[start + len(ASSISTANT) :]


def split_conversation(turns: Conversation, *, first: bool = False) -> tuple[Conversation, Conversation]:
    """A conversation before and from its last (or first) assistant turn."""
    if not turns or turns[-1]["role"] != "assistant":
        role = turns[-1]["role"] if turns else "nothing"
        raise Defect("no_answer", f"the last turn is the {role}'s" if turns else "there are no turns")
    start = len(turns) - 1
    if first:
        start = next(i for i, turn in enumerate(turns) if turn["role"] == "assistant")
    return turns[:start], turns[start:]


def _common_turns(chosen: Conversation, rejected: Conversation) -> int:
    """How many leading turns are the prompt: what follows has no user turn and starts with the assistant."""
    common = 0
    for a, b in zip(chosen[:-1], rejected[:-1], strict=False):
        if a != b:
            break
        common += 1
    for answer in (chosen[common:], rejected[common:]):
        roles = [turn["role"] for turn in answer]
        if not roles or roles[0] != "assistant" or "user" in roles or common == 0:
            raise Defect("no_common_prompt", f"the conversations differ from turn {common + 1} on")
    return common


def shorter_prompts(prompt: Content) -> list[Content]:
    """The prompt without its oldest turns, longest first; each opens with a user's turn, the last one with the last.

    System turns at the start stay. Transcripts in Anthropic's form have turns too; other text and token ids have none.
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
    """Whether a response says and calls nothing."""
    if isinstance(response, TokenContent):
        return not response.ids
    if isinstance(response, str):
        return not response.strip()
    return not any(_says_something(turn) for turn in response if turn["role"] == "assistant")


def _says_something(turn: Message) -> bool:
    content = turn["content"]
    text = content if isinstance(content, str) else "".join(part["text"] for part in content)
    return bool(turn.get("tool_calls") or text.strip())
