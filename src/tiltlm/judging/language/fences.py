"""Marker lines around text that is judged, so that this text cannot pass for an instruction.

The lines hold a number that depends on everything that is shown. Whoever wrote an answer could not know it. Equal
questions have equal numbers, so judgements can be stored.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence

from tiltlm.judging.digests import canonical
from tiltlm.judging.judge import Prompt

CUT = "[cut]"
"""What stands at the end of an answer that was cut."""

LINE = re.compile(r"={3,}\s*\[[^\]\n]*\]\s*={3,}")
"""Anything that looks like a marker line."""
SPECIAL = re.compile(
    r"<\|[^<>|\n]{0,60}\|>"
    r"|</?s>|\[/?INST\]|<</?SYS>>"
    r"|<(?:bos|eos|pad|unk|start_of_turn|end_of_turn)>"
    r"|\[\[[A-Ca-c]\]\]"
)
"""Special tokens of well-known chat formats, and the verdict sign of older judges."""


def clean(text: str, special_tokens: Iterable[str] = ()) -> str:
    """Return text without special tokens and marker lines.

    It is repeated until nothing is found: taking one out may join the halves of another.
    """
    own = sorted({token for token in special_tokens if token.strip()}, key=len, reverse=True)
    while True:
        found = SPECIAL.sub("", LINE.sub("", text))
        for token in own:
            found = found.replace(token, "")
        if found == text:
            return text
        text = found


def prompt_text(prompt: Prompt, special_tokens: Iterable[str] = ()) -> str:
    """Return a prompt as text: of a conversation all turns, each after its role."""
    if isinstance(prompt, str):
        return clean(prompt, special_tokens)
    turns = []
    for turn in prompt:
        content = turn.get("content")
        text = content if isinstance(content, str) else canonical(content)
        turns.append(f"[{turn.get('role', '')}]\n{clean(text, special_tokens)}")
    return "\n\n".join(turns)


def answer_text(text: str, ended: bool, special_tokens: Iterable[str] = ()) -> str:
    """Return an answer as the judge sees it; one that was cut says so at its end."""
    found = clean(text, special_tokens)
    return found if ended else f"{found} {CUT}"


def fenced(parts: Sequence[tuple[str, str]], salt: str) -> str:
    """Return texts between marker lines.

    Args:
        parts: Heading and text of each.
        salt: Digest of the template. The number in the lines depends on it and on all texts.
    """
    content = canonical([salt, list(parts)]).encode("utf-8", "surrogatepass")
    number = hashlib.sha256(content).hexdigest()[:12]
    return "\n\n".join(
        f"=====[ BEGIN {heading} {number} ]=====\n{text}\n=====[ END {heading} {number} ]====="
        for heading, text in parts
    )
