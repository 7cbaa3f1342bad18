"""Show examples token by token with the role of each token, so that a user can check the mask."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from tiltlm.core.example import Example, Response
from tiltlm.data.tokens.encoder import Encoder

Role = Literal["prompt", "response", "end", "unscored"]


STYLES: dict[Role, str] = {
    "prompt": "opacity: 0.6",
    "response": "background: #1a9c5033",
    "end": "background: #1a9c5099",
    "unscored": "opacity: 0.6; font-style: italic",
}
"""How a notebook shows a token of each role."""


@dataclass(frozen=True)
class Piece:
    """One token."""

    text: str
    token_id: int
    role: Role
    """`response` and `end` (the end token) are scored; `prompt` and `unscored` (later turns) are not."""


@dataclass(frozen=True, repr=False)
class Preview:
    """One example, token by token."""

    id: str
    prompt: tuple[Piece, ...]
    responses: tuple[tuple[Piece, ...], ...]
    titles: tuple[str, ...]
    """Role, rank, score and cut of each response, as text."""
    notes: tuple[str, ...]
    """Weight and comparisons of the row, as text."""

    def __repr__(self) -> str:
        lengths = ", ".join(f"{t} {len(r)}" for t, r in zip(self.titles, self.responses, strict=True))
        return f"Preview: {self.id}, tokens: prompt {len(self.prompt)}, {lengths}"

    def _repr_html_(self) -> str:
        """Return the tokens side by side for a notebook; those that are scored have a coloured ground."""
        head = Markup("<p><b>{}</b> {}</p>").format(self.id, "; ".join(self.notes))
        parts = [(f"prompt, {len(self.prompt)} tokens", self.prompt)]
        for title, response in zip(self.titles, self.responses, strict=True):
            scored = sum(piece.role in ("response", "end") for piece in response)
            parts.append((f"{title}, {len(response)} tokens, {scored} scored", response))
        return head + Markup("").join(Markup("<p>{}<br>{}</p>").format(title, _spans(p)) for title, p in parts)


class Previews(list[Preview]):
    """Examples token by token, which a notebook shows one below the other."""

    def _repr_html_(self) -> str:
        """Return all examples as HTML for a notebook."""
        return "".join(preview._repr_html_() for preview in self)


def preview_examples(examples: Iterable[Example], encoder: Encoder, end_token_id: int) -> Previews:
    """Return these examples token by token. `end_token_id` is `PreferenceData.end_token_id`."""
    return Previews(
        Preview(
            id=example.id,
            prompt=_pieces(encoder, example.prompt_ids.tolist(), ["prompt"] * len(example.prompt_ids)),
            responses=tuple(
                _pieces(encoder, r.token_ids.tolist(), response_roles(r, end_token_id)) for r in example.responses
            ),
            titles=tuple(_title(example, k) for k in range(len(example.responses))),
            notes=_notes(example),
        )
        for example in examples
    )


def response_roles(response: Response, end_token_id: int) -> list[Role]:
    """Return the role of each token of a response."""
    length = len(response.token_ids)
    scored = set(range(length)) if response.scored is None else set(response.scored.tolist())
    roles: list[Role] = ["response" if i in scored else "unscored" for i in range(length)]
    for i in scored:
        if response.token_ids[i] == end_token_id:
            roles[i] = "end"
    return roles


def _spans(pieces: Iterable[Piece]) -> Markup:
    """Return tokens as HTML, with a thin line at each boundary and line breaks as they are."""
    span = Markup('<span style="{}; border-left: 1px solid #8888; white-space: pre-wrap">{}</span>')
    return Markup("").join(span.format(STYLES[piece.role], piece.text) for piece in pieces)


def _pieces(encoder: Encoder, ids: Sequence[int], roles: Sequence[Role]) -> tuple[Piece, ...]:
    return tuple(Piece(_inner_text(encoder, i), i, role) for i, role in zip(ids, roles, strict=True))


def _inner_text(encoder: Encoder, token_id: int) -> str:
    """Return the text of a token in the middle of a text.

    A decoder may strip the first space of a text. So the token is decoded twice in a row, and the text of one removed.
    """
    return encoder.decode([token_id, token_id])[len(encoder.decode([token_id])) :]


def _title(example: Example, k: int) -> str:
    role = example.roles[k]
    known = [] if role == "response" else ["chosen and rejected" if role == "both" else role]
    if example.ranks:
        known.append(f"rank {example.ranks[k]}")
    if example.scores:
        known.append(f"score {example.scores[k]:g}")
    cut = "" if example.responses[k].ended else ", cut: no end token"
    return f"{', '.join(known) or 'response'}{cut}"


def _notes(example: Example) -> tuple[str, ...]:
    notes = [] if example.weight == 1 else [f"weight {example.weight:g}"]
    for c in example.comparisons:
        soft = f", P(chosen ≻ rejected) = {c.preference:g}" if c.preference != 1 else ""
        margin = f", offset {c.offset:g}" if c.offset else ""
        if soft or margin or len(example.responses) > 2:
            notes.append(f"{c.chosen} ≻ {c.rejected}{soft}{margin}")
    return tuple(notes)
