"""Turn text into tokens: one beginning token, one end token, and one rule for the boundary of prompt and response.

The rule: the prompt is tokenised by itself, as at inference. The response gets the tokens that follow the prompt's when
both are tokenised together. If a token would cover the boundary, the response is tokenised by itself, as a continuation
with the same text. So the ids of prompt and response always start with the prompt's own ids.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import takewhile
from typing import TYPE_CHECKING, Any, TypeVar

from tiltlm.core.errors import DataError, ModelError
from tiltlm.core.example import Response, TokenIds, token_ids
from tiltlm.data.accounting import Defect, excerpt
from tiltlm.data.rows.cells import Content, Conversation, TokenContent
from tiltlm.data.rows.pretokenised import prompt_as_given, response_as_given
from tiltlm.data.rows.records import Record
from tiltlm.data.tokens.templates import ChatTemplate, Segment

if TYPE_CHECKING:  # a tokenizer is passed in; importing transformers takes seconds
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")

ANCHORS = ("", "\n", ".", "a")
"""Texts before a continuation that is tokenised by itself, so that it gets no mark for the start of a text."""


@dataclass(frozen=True)
class Draft:
    """A record as text: the rendered prompt, and each response in segments."""

    record: Record
    context: str
    """The prompt's text."""
    responses: tuple[tuple[Segment, ...], ...]

    @property
    def texts(self) -> list[str]:
        """The context, and the context with the first segment of each response."""
        return [self.context, *(self.context + segments[0].text for segments in self.responses)]


@dataclass(frozen=True, eq=False)
class Encoded:
    """A record as tokens, before the length limit."""

    prompt_ids: TokenIds
    responses: tuple[Response, ...]
    changes: tuple[str, ...]
    """Keys of `tiltlm.data.accounting.CHANGES`."""

    @property
    def num_tokens(self) -> int:
        """Tokens of the prompt with its longest response."""
        return len(self.prompt_ids) + max(len(r.token_ids) for r in self.responses)


@dataclass(frozen=True, eq=False)
class Encoder:
    """A tokenizer with rules for beginning tokens, end tokens and boundaries."""

    tokenizer: "PreTrainedTokenizerBase"
    end_token_id: int
    """End token of plain-text responses, from the tokenizer or the generation configuration."""
    window: int | None = None
    """Longest sequence that the model accepts, in tokens. None: no limit."""
    chat_template: str | None = None
    """Jinja text or a file. None: the tokenizer's own template."""
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Variables for the chat template."""
    num_embeddings: int | None = None
    """Number of embeddings, if the model has fewer than the tokenizer has tokens. Rows with others are defective."""
    reads_whole: bool = False
    """Conversations have the tokens that `apply_chat_template` gives, up to the last one, which is often a line break:
    reward models are read there. False: the boundary rule, and responses end with the token where samplers stop."""

    def __post_init__(self) -> None:
        if self.end_token_id is None:
            raise ModelError(
                "the model has no end token, so it cannot learn where a response ends. Set eos_token in "
                "tokenizer_config.json or eos_token_id in generation_config.json",
                code="no_end_token",
            )

    def with_template(self, chat_template: str | None, template_kwargs: Mapping[str, Any]) -> "Encoder":
        """Return this encoder with another chat template (None: the same) and more variables for it."""
        return replace(
            self,
            chat_template=chat_template or self.chat_template,
            template_kwargs={**self.template_kwargs, **template_kwargs},
        )

    @property
    def has_template(self) -> bool:
        """True if the tokenizer has a chat template, or one is given."""
        return bool(self.chat_template or self.tokenizer.chat_template)

    @cached_property
    def template(self) -> ChatTemplate | None:
        """The chat template with its variables. None: the tokenizer has none, and none is given."""
        return ChatTemplate.of(self.tokenizer, self.chat_template, self.template_kwargs)

    @property
    def given_template(self) -> str | None:
        """Jinja text of the template with its variables, to save with a model. None: the tokenizer's own, unchanged."""
        if self.chat_template is None and not self.template_kwargs:
            return None
        return self.template.standalone if self.template else None

    @cached_property
    def begin_token_id(self) -> int | None:
        """The beginning token, if the tokenizer puts it before plain text; else None."""
        begin = self.tokenizer.bos_token_id
        first = self.tokenizer("a").input_ids[:1]
        return begin if begin is not None and first == [begin] else None

    @property
    def empty_prompt_id(self) -> int:
        """The token that replaces an empty prompt: the beginning token, else the end token."""
        begin = self.tokenizer.bos_token_id
        return self.end_token_id if begin is None else begin

    @cached_property
    def turn_end_token_id(self) -> int:
        """End token of the responses of conversations."""
        end = self.template.end_token_id if self.template else None
        return self.end_token_id if end is None else end

    @cached_property
    def _closing_ids(self) -> tuple[int, ...]:
        """The tokens that the chat template writes after a response."""
        assert self.template is not None, "there are conversations"
        return tuple(self.tokens([self.template.closing])[0])

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, without special tokens added."""
        if not texts:
            return []
        engine = self._engine
        if engine is not None and engine.padding is None and engine.truncation is None:
            return [encoding.ids for encoding in engine.encode_batch_fast(list(texts), add_special_tokens=False)]
        ids: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False, verbose=False).input_ids
        return ids

    @cached_property
    def _engine(self) -> "Tokenizer | None":
        """The Rust tokenizer inside transformers' own class. Without offsets and masks it is a third faster.

        None for a tokenizer class that does more than call it.
        """
        from transformers import PreTrainedTokenizerFast

        own = type(self.tokenizer)
        if getattr(own, "_encode_plus", None) is not PreTrainedTokenizerFast._encode_plus:
            return None
        self.tokenizer(["a"])  # sets padding, truncation and the treatment of special tokens in text
        engine: Tokenizer = self.tokenizer.backend_tokenizer
        return engine

    def decode(self, ids: Sequence[int] | TokenIds) -> str:
        """Return the text of these ids, with special tokens."""
        text = self.tokenizer.decode([int(i) for i in ids], clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text

    def plain_text(self, ids: Sequence[int] | TokenIds) -> str:
        """Return the text of these ids without special tokens, for people to read."""
        text = self.tokenizer.decode(
            [int(i) for i in ids], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)
        return text

    def prompt_ids(self, text: str) -> TokenIds:
        """Return the ids of a plain-text prompt, as at inference."""
        return self._prompt(self.tokens([text])[0], chat=False)[0]

    def encode_prompt(self, record: Record) -> TokenIds:
        """Return the ids of a record's prompt as at inference; its responses are not read.

        Raises:
            Defect: The template cannot render the conversation, or a given id is not in the vocabulary.
            DataError: The prompt is a conversation, and there is no chat template.
        """
        prompt = record.prompt
        if isinstance(prompt, TokenContent):
            return prompt_as_given(prompt, self.num_embeddings or len(self.tokenizer))
        if isinstance(prompt, str):
            return self.prompt_ids(prompt)
        if self.template is None:
            raise _no_template(record)
        text = self.template.open(prompt, tools=record.tools, kwargs=record.template_kwargs)
        return self._prompt(self.tokens([text])[0], chat=True)[0]

    def response_text(self, prompt_ids: Sequence[int] | TokenIds, ids: Sequence[int] | TokenIds) -> str:
        """Return the text of a response after its prompt. Without the prompt, a decoder may strip its first space."""
        prompt = [int(i) for i in prompt_ids]
        return self.decode([*prompt, *(int(i) for i in ids)])[len(self.decode(prompt)) :]

    def encode(self, record: Record) -> Encoded:
        """Return one record as tokens.

        Raises:
            Defect: The record cannot be tokenised.
        """
        (result,) = self.encode_many([record])
        if isinstance(result, Defect):
            raise result
        return result

    def encode_many(self, records: Sequence[Record]) -> list[Encoded | Defect]:
        """Return each record as tokens, or its defect. One call for all lets the tokenizer work in parallel."""
        drafts = [caught(self._draft, record) for record in records]
        texts = [text for draft in drafts if isinstance(draft, Draft) for text in draft.texts]
        ids = iter(self.tokens(texts))
        return [
            caught(self._assemble, draft, [next(ids) for _ in draft.texts]) if isinstance(draft, Draft) else draft
            for draft in drafts
        ]

    def _draft(self, record: Record) -> Draft | Encoded:
        """Return the text of a record in segments, or its tokens if the row has token ids."""
        if isinstance(record.prompt, TokenContent):
            return self._as_given(record)
        if isinstance(record.prompt, str):
            if record.system or record.tools or record.template_kwargs:
                raise Defect("no_turns", f"the prompt is {excerpt(record.prompt)}")
            return Draft(record, record.prompt, tuple((Segment(text_of(r), scored=True),) for r in record.responses))
        if self.template is None:
            raise _no_template(record)
        rendered = [
            self.template.split(
                record.prompt,
                turns_of(response),
                tools=record.tools,
                kwargs=record.template_kwargs,
                keep_closing=self.reads_whole,
            )
            for response in record.responses
        ]
        return Draft(record, rendered[0][0], tuple(segments for _, segments in rendered))

    def _as_given(self, record: Record) -> Encoded:
        """Return a record of token ids unchanged, after checks."""
        vocabulary = self.num_embeddings or len(self.tokenizer)
        refs = record.ref_logps or (None,) * len(record.responses)
        responses = tuple(
            response_as_given(response, ref, vocabulary, self.end_token_id, self._specials)
            for response, ref in zip(record.responses, refs, strict=True)
        )
        return Encoded(prompt_as_given(record.prompt, vocabulary), responses, ())

    @cached_property
    def special_texts(self) -> frozenset[str]:
        """The special tokens as text, which the tokenizer reads as tokens wherever they stand."""
        return frozenset(t.content for t in self.tokenizer.added_tokens_decoder.values() if t.special)

    @cached_property
    def _specials(self) -> frozenset[int]:
        added = self.tokenizer.added_tokens_decoder
        return frozenset({self.end_token_id, *(i for i, token in added.items() if token.special)})

    def _assemble(self, draft: Draft, ids: list[list[int]]) -> Encoded:
        """Return the tokens of a draft, given the tokens of its `texts`."""
        chat = not isinstance(draft.record.prompt, str)
        end = self.turn_end_token_id if chat else self.end_token_id
        context_ids, *joints = ids
        if chat and self.reads_whole:  # each conversation is one text: a token may cover the boundary
            context_ids = _common_start(ids)
        prompt_ids, changes = self._prompt(context_ids, chat)
        without_tools = self._leaves_out_tools(draft.record)
        changes += ["tools_left_out"] * without_tools
        refs = draft.record.ref_logps or (None,) * len(joints)
        responses = []
        for segments, joint, ref in zip(draft.responses, joints, refs, strict=True):
            response, scored, merged = self._follow(draft.context, context_ids, segments, joint)
            if not chat and not context_ids:  # the text may start with a beginning token, which is the prompt now
                response = response[_leading(response, self.tokenizer.bos_token_id) :]
            closing = self._closing_ids if chat and self.reads_whole else (end,)
            if closing == (end,):
                response = end_once(response, end)
            if len(response) <= len(closing):
                cause = ", because the chat template writes no tool calls" if without_tools else ""
                raise Defect("empty_response", f"the response has only special tokens{cause}")
            if len(segments) == 1 and end in response[: -len(closing) or None]:
                raise Defect("end_inside", f"end token at position {response.index(end)} of {len(response)}")
            if scored is not None:
                scored = [*(i for i in scored if i < len(response) - 1), len(response) - 1]
            responses.append(Response(token_ids(response), True, None if scored is None else token_ids(scored), ref))
            changes += ["boundary_merge"] * merged
        largest = max(int(ids.max()) for ids in (prompt_ids, *(r.token_ids for r in responses)))
        if self.num_embeddings is not None and largest >= self.num_embeddings:
            raise Defect("unknown_token", f"id {largest}, and the model has {self.num_embeddings} embeddings")
        return Encoded(prompt_ids, tuple(responses), tuple(changes))

    def _leaves_out_tools(self, record: Record) -> bool:
        """Return whether the row has tools or tool calls that the chat template does not write."""
        if self.template is None or not isinstance(record.prompt, tuple):
            return False
        turns = [turn for part in (record.prompt, *record.responses) for turn in turns_of(part)]
        return self.template.leaves_out_tools(turns, record.tools)

    def _prompt(self, ids: list[int], chat: bool) -> tuple[TokenIds, list[str]]:
        """Return the prompt's ids with exactly one beginning token if the tokenizer or the template uses one.

        For a conversation, none is added: a chat template renders the beginning token if the model needs one. Several
        become one.

        Returns:
            The ids, and keys of `tiltlm.data.accounting.CHANGES`.
        """
        begin = self.tokenizer.bos_token_id if chat else self.begin_token_id
        lead = _leading(ids, begin)
        if begin is not None and (lead or not chat):
            ids = [begin, *ids[lead:]]
        if not ids or (ids == [begin] and not lead):
            return token_ids([self.empty_prompt_id]), ["empty_prompt"]
        return token_ids(ids), []

    def _follow(
        self, context: str, context_ids: list[int], segments: Sequence[Segment], joint: list[int]
    ) -> tuple[list[int], list[int] | None, bool]:
        """Return the tokens of segments that follow a context.

        Args:
            context: The text before.
            context_ids: Its tokens.
            segments: Texts that follow, in order.
            joint: Tokens of the context and the first segment, tokenised together.

        Returns:
            The ids, the offsets that are scored (None: all), and True if a token would have covered a boundary.
        """
        ids: list[int] = []
        scored: list[int] = []
        merged = False
        for i, segment in enumerate(segments):
            if i > 0:
                (joint,) = self.tokens([context + segment.text])
            piece, crossed = self._continue(context_ids + ids, segment.text, joint)
            if segment.scored:
                scored += range(len(ids), len(ids) + len(piece))
            ids, context, merged = ids + piece, context + segment.text, merged or crossed
        return ids, None if all(segment.scored for segment in segments) else scored, merged

    def _continue(self, context_ids: list[int], text: str, joint: list[int]) -> tuple[list[int], bool]:
        """Return the tokens of a text after a context, and True if a joint token would have covered the boundary.

        Raises:
            Defect: No tokens after the context's own give the same text.
        """
        if joint[: len(context_ids)] == context_ids:
            return joint[len(context_ids) :], False
        wanted = self.decode(joint)
        for anchor in ANCHORS:
            before, both = self.tokens([anchor, anchor + text])
            ids = both[len(before) :]
            if ids and both[: len(before)] == before and self.decode(context_ids + ids) == wanted:
                return ids, True
        raise Defect("boundary", excerpt(text))


def _no_template(record: Record) -> DataError:
    return DataError(
        f"{record.location}: the row is a conversation, but the tokenizer has no chat template. Set "
        "data.chat_template=FILE.jinja, or use plain text",
        code="no_chat_template",
        key="data.chat_template",
        row=record.location,
    )


def caught(function: Callable[..., T], *args: Any) -> T | Defect:
    """Return what the function returns, or the defect it raises."""
    try:
        return function(*args)
    except Defect as defect:
        return defect


def _leading(ids: Sequence[int], token: int | None) -> int:
    """Count how many ids at the start are this token."""
    return next((i for i, t in enumerate(ids) if t != token), len(ids))


def _common_start(sequences: Sequence[Sequence[int]]) -> list[int]:
    """Return the ids with which all these sequences start."""
    return [column[0] for column in takewhile(lambda column: len(set(column)) == 1, zip(*sequences, strict=False))]


def end_once(ids: list[int], end: int) -> list[int]:
    """Return the ids with exactly one end token at the end."""
    while ids and ids[-1] == end:
        ids = ids[:-1]
    return [*ids, end]


def text_of(response: Content) -> str:
    """Return a response that is text."""
    assert isinstance(response, str), "a response has the form of its prompt"
    return response


def turns_of(response: Content) -> Conversation:
    """Return a response that is turns."""
    assert isinstance(response, tuple), "a response has the form of its prompt"
    return response
