"""The system text of a prompt, apart from what was asked."""

from typing import Any

from tiltlm.judging.judge import Prompt


def split_system(prompt: Prompt) -> tuple[Any, str]:
    """Return a prompt and its system text. One user turn behind a system turn becomes text; others stay turns."""
    if isinstance(prompt, str):
        return prompt, ""
    turns = [dict(turn) for turn in prompt]
    if [turn.get("role") for turn in turns] == ["system", "user"] and all(set(t) == {"role", "content"} for t in turns):
        return turns[1]["content"], str(turns[0]["content"])
    return turns, ""
