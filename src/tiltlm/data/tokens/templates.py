"""Render conversations with chat templates, split them into prompt and scored text, and find the end token.

Rendering is transformers' own. This module decides, once per template, where a response ends: with the first special
token that the template writes after it (`<|im_end|>`, `<|eot_id|>`), because samplers stop there. Text after that token
(often a line break) belongs to the next turn. If a template writes no special token there, the tokenizer's end token is
used.
"""

import hashlib
import json
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
"""The response in the conversation that is rendered to see how the template ends a turn."""

UNRENDERABLE = (TemplateError, ValueError, TypeError, LookupError, AttributeError)
"""Exceptions that templates raise for turns they do not support."""


@dataclass(frozen=True)
class Segment:
    """A part of the text after the prompt."""

    text: str
    scored: bool


@dataclass(frozen=True, eq=False)
class ChatTemplate:
    """A chat template with its variables."""

    tokenizer: "PreTrainedTokenizerBase"
    source: str
    """Jinja text."""
    kwargs: Mapping[str, Any]

    @classmethod
    def of(
        cls, tokenizer: "PreTrainedTokenizerBase", template: str | None, kwargs: Mapping[str, Any]
    ) -> "ChatTemplate | None":
        """Return the given template, else the tokenizer's own, else None.

        Args:
            tokenizer: Renders the template.
            template: Jinja text or a file.
            kwargs: Variables for the template.

        Raises:
            DataError: The file is missing, or the tokenizer has several templates and none is the default.
        """
        if template is None:
            template = _own(tokenizer)
        elif "{" not in template:
            if not Path(template).is_file():
                raise DataError(
                    f"data.chat_template={template}: not a file, and not Jinja text (which has a '{{')",
                    code="no_such_path",
                    key="data.chat_template",
                )
            template = Path(template).read_text(encoding="utf-8")
        return None if template is None else cls(tokenizer, template, dict(kwargs))

    @property
    def digest(self) -> str:
        """16 hexadecimal digits of the sha256 of text and variables."""
        return hashlib.sha256(f"{self.source}\0{sorted(self.kwargs.items())}".encode()).hexdigest()[:16]

    @property
    def writes_date(self) -> bool:
        """True if the template can write today's date, so that it renders other text tomorrow."""
        return "strftime_now" in self.source

    @property
    def standalone(self) -> str:
        """Jinja text that renders the same without the variables: they are its defaults."""
        defaults = (
            f"{{% set {name} = {name} if {name} is defined else {_literal(value)} %}}\n"
            for name, value in self.kwargs.items()
        )
        return "".join(defaults) + self.source

    def render(
        self,
        turns: Sequence[Message],
        *,
        open_response: bool,
        tools: Sequence[dict[str, Any]] = (),
        kwargs: Mapping[str, Any] | None = None,
        closed: bool = True,
    ) -> str:
        """Return these turns as text.

        Args:
            turns: The conversation.
            open_response: Add the start of the assistant's next turn.
            tools: Tools for the template.
            kwargs: Variables that override those of the template.
            closed: False: the text ends with the last turn's own text, so that it can be continued.
        """
        text = self.tokenizer.apply_chat_template(
            list(turns),
            tools=list(tools) or None,
            chat_template=self.source,
            add_generation_prompt=open_response,
            continue_final_message=not closed,
            tokenize=False,
            **{**self.kwargs, **(kwargs or {})},
        )
        assert isinstance(text, str)
        return text

    def open(self, prompt: Conversation, *, tools: Sequence[dict[str, Any]], kwargs: Mapping[str, Any]) -> str:
        """Return the text of a prompt as at inference, up to where the response begins.

        Raises:
            Defect: The template raises an error.
        """
        begun = begins_response(prompt)
        try:
            return self.render(prompt, open_response=not begun, tools=tools, kwargs=kwargs, closed=not begun)
        except UNRENDERABLE as error:
            raise Defect("template_error", excerpt(str(error))) from error

    @cached_property
    def closing(self) -> str:
        """The text that the template writes after the last response."""
        turns = ({"role": "user", "content": "?"}, {"role": "assistant", "content": PROBE})
        try:
            rendered = self.render(turns, open_response=False)
        except UNRENDERABLE as error:
            raise DataError(
                f"the chat template cannot render a user turn and an assistant turn: {error}. Set data.chat_template",
                code="template_error",
                key="data.chat_template",
            ) from error
        _, found, closing = rendered.rpartition(PROBE)
        if not found:
            raise DataError(
                "the chat template does not write the text of the assistant's turn. Set data.chat_template",
                code="template_without_answer",
                key="data.chat_template",
            )
        return closing

    @cached_property
    def end_token_id(self) -> int | None:
        """The first special token that the template writes after a response. None: it writes none."""
        added = self.tokenizer.added_tokens_decoder  # Gemma adds line breaks and spaces too: they end nothing
        ids = self.tokenizer(self.closing, add_special_tokens=False).input_ids
        return next((i for i in ids if i in added and added[i].content.strip(" \t\n▁")), None)

    @cached_property
    def _after_end(self) -> str:
        """The text after the end token, which does not belong to the response."""
        if self.end_token_id is None:
            return self.closing
        token = str(self.tokenizer.convert_ids_to_tokens(self.end_token_id))
        _, found, after = self.closing.partition(token)
        assert found, "`end_token_id` was found in this text"
        return after

    def split(
        self,
        prompt: Conversation,
        response: Conversation,
        *,
        tools: Sequence[dict[str, Any]] = (),
        kwargs: Mapping[str, Any] | None = None,
        keep_closing: bool = False,
    ) -> tuple[str, tuple[Segment, ...]]:
        """Return the prompt's text as at inference, and the response's text in scored and unscored segments.

        If the prompt ends with an assistant turn, the response continues that turn.

        Every assistant turn of `response` is scored, from the end of its opening to its end token. The text before each
        of them must equal what the template renders without this turn.

        Args:
            prompt: Turns before the response.
            response: Turns from an assistant turn on.
            tools: Tools for the template.
            kwargs: Variables that override those of the template.
            keep_closing: Keep the text that the template writes after the last end token, usually a line break.

        Raises:
            Defect: The template raises an error, or renders earlier turns differently when later turns are added.
        """
        begun = begins_response(prompt)
        turns = (*prompt[:-1], _continued(prompt[-1], response[0]), *response[1:]) if begun else (*prompt, *response)
        start = len(prompt) - begun
        ends = [i + 1 for i, turn in enumerate(turns) if i >= start and turn["role"] == "assistant"]
        try:
            contexts = [self.render(turns[: e - 1], open_response=True, tools=tools, kwargs=kwargs) for e in ends]
            if begun:
                contexts[0] = self.render(prompt, open_response=False, tools=tools, kwargs=kwargs, closed=False)
            rendered = [self.render(turns[:e], open_response=False, tools=tools, kwargs=kwargs) for e in ends]
        except UNRENDERABLE as error:
            raise Defect("template_error", excerpt(str(error))) from error
        with_response = [text.removesuffix(self._after_end) for text in rendered]
        if keep_closing:
            with_response[-1] = rendered[-1]
        final = with_response[-1]
        segments: list[Segment] = []
        position = len(contexts[0])
        for context, whole in zip(contexts, with_response, strict=True):
            if not (final.startswith(context) and final.startswith(whole)):
                raise Defect(
                    "template_rewrites", f"without the response, the prompt ends with {excerpt(context[-30:])}"
                )
            if len(context) > position:
                segments.append(Segment(final[position : len(context)], scored=False))
            segments.append(Segment(final[len(context) : len(whole)], scored=True))
            position = len(whole)
        return contexts[0], tuple(segments)


def begins_response(prompt: Conversation) -> bool:
    """Return True if a prompt ends with text of the assistant, which the response continues."""
    return bool(prompt) and prompt[-1]["role"] == "assistant" and "tool_calls" not in prompt[-1]


def _continued(begun: Message, response: Message) -> Message:
    return {**begun, **response, "content": begun["content"] + response["content"]}


def _literal(value: Any) -> str:
    """Return a variable of a template as Jinja text; a value without a literal, such as a date, as its string."""
    return repr(json.loads(json.dumps(value, default=str)))


def _own(tokenizer: "PreTrainedTokenizerBase") -> str | None:
    if not tokenizer.chat_template:
        return None
    try:
        return tokenizer.get_chat_template()
    except ValueError as error:  # several named templates and none called default
        raise DataError(
            f"the tokenizer has several chat templates ({error}). Choose one: data.chat_template=FILE.jinja",
            code="several_templates",
            key="data.chat_template",
        ) from error
