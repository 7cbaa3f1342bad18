"""A pair as the browser gets it."""

from typing import Any

from tiltlm.labeling.queue.contents import Contents, as_turns
from tiltlm.labeling.web.rendering import MAX_MARKDOWN, plain_html, to_html


def to_item(contents: Contents) -> dict[str, Any]:
    """Return a pair as the browser gets it, by `messages.Item`.

    Both responses are read as Markdown, or neither, so that no side looks better than the other. The newest turns of
    the prompt come next, as far as `MAX_MARKDOWN` goes.
    """
    left, right = as_turns(contents.left, "assistant"), as_turns(contents.right, "assistant")
    prompt = as_turns(contents.pair.prompt, "user")
    budget = MAX_MARKDOWN
    sides = sum(len(text) for _, text in left + right)
    are_rendered = sides <= budget
    budget -= sides if are_rendered else 0
    turns: list[dict[str, str]] = []
    for role, text in reversed(prompt):
        turns.append(_turn(role, text, is_rendered=len(text) <= budget))
        budget -= min(len(text), budget)
    system = contents.pair.system
    return {
        "ticket": contents.given.ticket,
        "is_calibration": contents.given.kind == "calibration",
        "system": {"html": _html(system, is_rendered=len(system) <= budget), "text": system} if system else None,
        "prompt": turns[::-1],
        "left": [_turn(role, text, is_rendered=are_rendered) for role, text in left],
        "right": [_turn(role, text, is_rendered=are_rendered) for role, text in right],
    }


def _turn(role: str, text: str, *, is_rendered: bool) -> dict[str, str]:
    return {"role": role, "html": _html(text, is_rendered=is_rendered), "text": text}


def _html(text: str, *, is_rendered: bool) -> str:
    return to_html(text) if is_rendered else plain_html(text)
