"""Chat templates: turns become text, cut into what is given and what is scored, and the token that ends an answer.

Rendering is transformers' own. What is decided here, once per template: an answer ends with the first special token
that the template writes after it (`<|im_end|>`, `<|eot_id|>`), because that is where a sampler stops; what the
template writes after that token (often a line break) opens the next turn and is no part of the answer. A template that
writes no special token there gets the tokenizer's end token.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from tiltlm.core.errors import DataError
from tiltlm.data.accounting import Defect, excerpt
from tiltlm.data.rows.cells import Conversation, Message

if TYPE_CHECKING:  # a tokenizer is passed in; importing transformers takes seconds
    from transformers import PreTrainedTokenizerBase

PROBE = "tiltlm"
"""The answer of the conversation that shows how the template ends a turn."""

UNRENDERABLE = (TemplateError, ValueError, TypeError, LookupError, AttributeError)
"""What templates raise on turns they were not written for."""


@dataclass(frozen=True)
class Segment:
    """A stretch of text after the prompt."""

    text: str
    scored: bool


@dataclass(frozen=True, eq=False)
class ChatTemplate:
    """One chat template with its variables."""

    tokenizer: "PreTrainedTokenizerBase"
    source: str
    """Jinja text."""
    kwargs: Mapping[str, Any]

    @classmethod
    def of(
        cls, tokenizer: "PreTrainedTokenizerBase", template: str | None, kwargs: Mapping[str, Any]
    ) -> "ChatTemplate | None":
        """The template given (as text or file), else the tokenizer's own, else none."""
        if template is None:
            template = _own(tokenizer)
        elif "{" not in template:
            if not Path(template).is_file():
                raise DataError(
                    f"data.chat_template={template}: neither Jinja text nor a file",
                    code="no_such_path",
                    key="data.chat_template",
                )
            template = Path(template).read_text(encoding="utf-8")
        return None if template is None else cls(tokenizer, template, dict(kwargs))

    @property
    def digest(self) -> str:
        """Equal for templates that render the same."""
        return hashlib.sha256(f"{self.source}\0{sorted(self.kwargs.items())}".encode()).hexdigest()[:16]

    @property
    def writes_date(self) -> bool:
        """Whether it renders something else tomorrow, unless a variable fixes the date."""
        return "strftime_now" in self.source

    def render(
        self,
        turns: Sequence[Message],
        *,
        open_answer: bool,
        tools: Sequence[dict[str, Any]] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """These turns as text; `open_answer` adds what opens the assistant's next turn."""
        text = self.tokenizer.apply_chat_template(
            list(turns),
            tools=list(tools) or None,
            chat_template=self.source,
            add_generation_prompt=open_answer,
            tokenize=False,
            **{**self.kwargs, **(kwargs or {})},
        )
        assert isinstance(text, str)
        return text

    @cached_property
    def _closing(self) -> str:
        """What the template writes after an answer that nothing follows."""
        turns = ({"role": "user", "content": "?"}, {"role": "assistant", "content": PROBE})
        try:
            rendered = self.render(turns, open_answer=False)
        except UNRENDERABLE as error:
            raise DataError(
                f"the chat template cannot render a question and its answer: {error}",
                code="template_error",
                key="data.chat_template",
            ) from error
        _, found, closing = rendered.rpartition(PROBE)
        if not found:
            raise DataError(
                "the chat template leaves out the assistant's answer; set data.chat_template",
                code="template_without_answer",
                key="data.chat_template",
            )
        return closing

    @cached_property
    def end_token_id(self) -> int | None:
        """The first special token (one with a name of its own) written after an answer; None where there is none."""
        added = self.tokenizer.added_tokens_decoder  # Gemma adds line breaks and runs of spaces too: those end nothing
        ids = self.tokenizer(self._closing, add_special_tokens=False).input_ids
        return next((i for i in ids if i in added and added[i].content.strip(" \t\n▁")), None)

    @cached_property
    def _after_end(self) -> str:
        """The part of the closing that is no part of the answer."""
        if self.end_token_id is None:
            return self._closing
        token = str(self.tokenizer.convert_ids_to_tokens(self.end_token_id))
        _, found, after = self._closing.partition(token)
        assert found, "the end token was found in this text"
        return after

    def split(
        self,
        prompt: Conversation,
        answer: Conversation,
        *,
        tools: Sequence[dict[str, Any]] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> tuple[str, tuple[Segment, ...]]:
        """The prompt as it stands at inference, and the answer's text cut by what is scored.

        Every assistant turn of `answer` is scored, from after its opening to its end token. Before each of them the
        text must be what the template renders when that turn is still to come.

        Raises:
            Defect: the template refuses the turns, or renders earlier turns differently once later ones follow.
        """
        turns = (*prompt, *answer)
        ends = [i + 1 for i, turn in enumerate(turns) if i >= len(prompt) and turn["role"] == "assistant"]
        try:
            contexts = [self.render(turns[: e - 1], open_answer=True, tools=tools, kwargs=kwargs) for e in ends]
            wholes = [self.render(turns[:e], open_answer=False, tools=tools, kwargs=kwargs) for e in ends]
        except UNRENDERABLE as error:
            raise Defect("template_error", excerpt(str(error))) from error
        answered = [whole.removesuffix(self._after_end) for whole in wholes]
        final = answered[-1]
        segments: list[Segment] = []
        position = len(contexts[0])
        for context, whole in zip(contexts, answered, strict=True):
            if not (final.startswith(context) and final.startswith(whole)):
                raise Defect("template_rewrites", f"rendered alone, the prompt ends {excerpt(context[-30:])}")
            if len(context) > position:
                segments.append(Segment(final[position : len(context)], scored=False))
            segments.append(Segment(final[len(context) : len(whole)], scored=True))
            position = len(whole)
        return contexts[0], tuple(segments)


def _own(tokenizer: "PreTrainedTokenizerBase") -> str | None:
    if not tokenizer.chat_template:
        return None
    try:
        return tokenizer.get_chat_template()
    except ValueError as error:  # several named templates and none called default
        raise DataError(
            f"the tokenizer's chat template: {error}; choose one: data.chat_template=FILE.jinja",
            code="several_templates",
            key="data.chat_template",
        ) from error
