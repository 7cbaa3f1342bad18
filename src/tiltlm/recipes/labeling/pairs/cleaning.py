"""Pairs that are left out before people see them: votes on them would say little, or would not be blind."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from tiltlm.data.similarity.near_duplicates import NearDuplicates
from tiltlm.labeling.store.pairs import to_json
from tiltlm.recipes.labeling.pairs.candidates import Candidate
from tiltlm.sampling.answers import AnswerRow
from tiltlm.sampling.diversity import Diversity, distance_of, diversity_of

NEAR = 0.1
"""Two responses whose distance is below this are nearly equal: more than 90 % of their word 3-grams are common."""
MAKERS = (
    *("openai", "chatgpt", "gpt-3", "gpt-3.5", "gpt-4", "gpt-4o", "gpt-5", "anthropic", "claude", "google deepmind"),
    *("google gemini", "gemini pro", "google bard", "meta ai", "llama 2", "llama-2", "llama 3", "llama-3", "vicuna"),
    *("mistral ai", "mixtral", "qwen", "tongyi qianwen", "alibaba cloud", "deepseek", "chatglm", "zhipu", "smollm"),
    *("open assistant", "ernie bot", "baichuan", "moonshot ai", "xai's grok"),
)
"""Names of models and of those who make them. A response that names one is no longer anonymous."""
NAMED = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, sorted(MAKERS, key=len, reverse=True)))})(?!\w)")
CAUSES = {
    "identical": "the two responses are equal",
    "near_identical": "more than 90 % of the word 3-grams are common",
    "empty": "a response has no text",
    "unfinished": "a response was cut",
    "names_its_maker": "a response names a model or its maker, and the prompt does not",
}
"""Why a pair is left out, in the order in which it is looked for."""
SHOWN = 3


@dataclass(frozen=True)
class Cleaned:
    """Pairs to label, and those that were left out."""

    kept: list[Candidate]
    left_out: dict[str, list[Candidate]] = field(default_factory=dict)
    """Cause → pairs."""

    def lines(self) -> list[str]:
        """Return what was left out, as sentences for people."""
        return [
            f"left out {len(own):,} pairs: {CAUSES[cause]}, such as: {_excerpt(own)}"
            for cause, own in self.left_out.items()
        ]


def _excerpt(candidates: Sequence[Candidate]) -> str:
    texts = [min(one.texts, key=len) for one in candidates[:SHOWN]]
    return "; ".join(repr(text if len(text) <= 40 else f"{text[:40]}…") for text in texts)


def clean(candidates: Sequence[Candidate], *, keep_all: bool = False) -> Cleaned:
    """Leave out pairs on which votes would say little, or which tell who wrote a response.

    Args:
        candidates: The pairs.
        keep_all: Leave out only pairs of equal responses, which nobody can compare.
    """
    cleaned = Cleaned([])
    for one in candidates:
        cause = _cause(one)
        if cause is None or (keep_all and cause != "identical"):
            cleaned.kept.append(one)
        else:
            cleaned.left_out.setdefault(cause, []).append(one)
    return cleaned


def _cause(one: Candidate) -> str | None:
    a, b = one.texts
    if a == b:
        return "identical"
    if not a.strip() or not b.strip():
        return "empty"
    if distance_of(a, b) < NEAR:
        return "near_identical"
    if not all(one.ended):
        return "unfinished"
    told = {name for text in (a, b) for name in NAMED.findall(text.lower())}
    asked = f"{one.new.system}\n{to_json(one.new.prompt)}".lower()
    return "names_its_maker" if any(name not in asked for name in told) else None


def describe(candidates: Sequence[Candidate]) -> list[str]:
    """Return how different the pairs are, as sentences for people."""
    if not candidates:
        return []
    answers: dict[str, list[str]] = {}
    for one in candidates:
        own = answers.setdefault(to_json([one.new.system, one.new.prompt]), [])
        own += [text for text in one.texts if text not in own]
    rows = [AnswerRow(key, key, tuple(own), (True,) * len(own)) for key, own in answers.items()]
    found: Diversity = diversity_of(rows)
    near = NearDuplicates()
    for key in answers:
        near.add(key, key)
    num_groups = len({*near.group_numbers().tolist()})
    distances = [distance_of(*one.texts) for one in candidates]
    return [
        f"{len(candidates):,} pairs on {len(answers):,} prompts, which are {num_groups:,} groups of similar prompts",
        f"distance of the two responses of a pair {sum(distances) / len(distances):.2f} on average (1: no common word "
        f"3-gram); distinct-1 {found.distinct_1:.2f}, distinct-2 {found.distinct_2:.2f}",
    ]
