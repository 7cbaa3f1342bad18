"""Text to tokens: one beginning token, one end token, and one rule for the boundary between prompt and answer.

The rule: the prompt is tokenised alone, as it will be at inference. The answer takes the tokens that follow when both
are tokenised together; where that would put a token across the boundary, the answer is tokenised on its own as a
continuation that spells the same text. So prompt ids are always a prefix, and always the prompt's own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
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
"""What a continuation may be tokenised behind, so that the tokenizer adds no start-of-text mark to it."""


@dataclass(frozen=True)
class Draft:
    """A record as text: what is given, and each response in segments."""

    record: Record
    context: str
    answers: tuple[tuple[Segment, ...], ...]

    @property
    def texts(self) -> list[str]:
        """The context, and the context with the first segment of each response."""
        return [self.context, *(self.context + segments[0].text for segments in self.answers)]


@dataclass(frozen=True, eq=False)
class Encoded:
    """A record as tokens, whole."""

    prompt_ids: TokenIds
    responses: tuple[Response, ...]
    changes: tuple[str, ...]
    """Keys of `tiltlm.data.accounting.CHANGES`."""

    @property
    def num_tokens(self) -> int:
        """The prompt with its longest response."""
        return len(self.prompt_ids) + max(len(r.token_ids) for r in self.responses)


@dataclass(frozen=True, eq=False)
class Encoder:
    """A tokenizer with every decision about beginnings, ends and boundaries made."""

    tokenizer: "PreTrainedTokenizerBase"
    end_token_id: int
    """What ends a plain-text response: the model's own, from its tokenizer or generation configuration."""
    window: int | None = None
    """Longest sequence the model takes; None where it has no limit."""
    chat_template: str | None = None
    """Jinja text or a file in place of the tokenizer's own."""
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.end_token_id is None:
            raise ModelError(
                "the tokenizer has no end token, so no response could be taught to stop; "
                "set eos_token in tokenizer_config.json or eos_token_id in generation_config.json",
                code="no_end_token",
            )

    def with_template(self, chat_template: str | None, template_kwargs: Mapping[str, Any]) -> "Encoder":
        """The same encoder with another chat template or variables for it, where any are given."""
        return replace(
            self,
            chat_template=chat_template or self.chat_template,
            template_kwargs={**self.template_kwargs, **template_kwargs},
        )

    @cached_property
    def template(self) -> ChatTemplate | None:
        return ChatTemplate.of(self.tokenizer, self.chat_template, self.template_kwargs)

    @cached_property
    def begin_token_id(self) -> int | None:
        """What the tokenizer itself puts before plain text; None where it puts nothing."""
        begin = self.tokenizer.bos_token_id
        first = self.tokenizer("a").input_ids[:1]
        return begin if begin is not None and first == [begin] else None

    @property
    def empty_prompt_id(self) -> int:
        """What stands for a prompt without text: the beginning token, or the end token where there is none."""
        begin = self.tokenizer.bos_token_id
        return self.end_token_id if begin is None else begin

    @cached_property
    def turn_end_token_id(self) -> int:
        """What ends the answer of a conversation."""
        end = self.template.end_token_id if self.template else None
        return self.end_token_id if end is None else end

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, with nothing added."""
        if not texts:
            return []
        engine = self._engine
        if engine is not None and engine.padding is None and engine.truncation is None:
            return [encoding.ids for encoding in engine.encode_batch_fast(list(texts), add_special_tokens=False)]
        ids: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False, verbose=False).input_ids
        return ids

    @cached_property
    def _engine(self) -> "Tokenizer | None":
        """What transformers' own class asks, a third faster where offsets and masks are not wanted.

        None for a class that does more than to ask it.
        """
        from transformers import PreTrainedTokenizerFast

        own = type(self.tokenizer)
        if getattr(own, "_encode_plus", None) is not PreTrainedTokenizerFast._encode_plus:
            return None
        self.tokenizer(["a"])  # settles padding, cutting, and whether special tokens are read in text
        engine: Tokenizer = self.tokenizer.backend_tokenizer
        return engine

    def decode(self, ids: Sequence[int] | TokenIds) -> str:
        """The text of these ids, special tokens shown."""
        text = self.tokenizer.decode([int(i) for i in ids], clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text

    def plain_text(self, ids: Sequence[int] | TokenIds) -> str:
        """The text of these ids without special tokens: what a reader of responses wants to see."""
        text = self.tokenizer.decode(
            [int(i) for i in ids], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)
        return text

    def prompt_ids(self, text: str) -> TokenIds:
        """A plain-text prompt on its own, as it is tokenised at inference."""
        return self._prompt(self.tokens([text])[0], chat=False)[0]

    def answer_text(self, prompt_ids: Sequence[int] | TokenIds, ids: Sequence[int] | TokenIds) -> str:
        """The text of a response where it stands; alone, a decoder may strip its first space."""
        prompt = [int(i) for i in prompt_ids]
        return self.decode([*prompt, *(int(i) for i in ids)])[len(self.decode(prompt)) :]

    def encode(self, record: Record) -> Encoded:
        """One record as tokens.

        Raises:
            Defect: the record cannot be tokenised.
        """
        (result,) = self.encode_many([record])
        if isinstance(result, Defect):
            raise result
        return result

    def encode_many(self, records: Sequence[Record]) -> list[Encoded | Defect]:
        """Each record as tokens, or why not. Tokenizers work on many texts in parallel, so all are given at once."""
        drafts = [caught(self._draft, record) for record in records]
        texts = [text for draft in drafts if isinstance(draft, Draft) for text in draft.texts]
        ids = iter(self.tokens(texts))
        return [
            caught(self._assemble, draft, [next(ids) for _ in draft.texts]) if isinstance(draft, Draft) else draft
            for draft in drafts
        ]

    def _draft(self, record: Record) -> Draft | Encoded:
        """The text of a record, in segments; or its tokens, where it brings them along."""
        if isinstance(record.prompt, TokenContent):
            return self._as_given(record)
        if isinstance(record.prompt, str):
            return Draft(record, record.prompt, tuple((Segment(text_of(r), scored=True),) for r in record.responses))
        if self.template is None:
            raise DataError(
                f"{record.location}: the row is a conversation, and the tokenizer has no chat template. "
                "Give one: data.chat_template=FILE.jinja, or use plain text",
                code="no_chat_template",
                key="data.chat_template",
                row=record.location,
            )
        rendered = [
            self.template.split(record.prompt, turns_of(response), tools=record.tools, kwargs=record.template_kwargs)
            for response in record.responses
        ]
        return Draft(record, rendered[0][0], tuple(segments for _, segments in rendered))

    def _as_given(self, record: Record) -> Encoded:
        """A record of token ids as it stands."""
        vocabulary = len(self.tokenizer)
        refs = record.ref_logps or (None,) * len(record.responses)
        responses = tuple(
            response_as_given(response, ref, vocabulary, self.end_token_id, self._specials)
            for response, ref in zip(record.responses, refs, strict=True)
        )
        return Encoded(prompt_as_given(record.prompt, vocabulary), responses, ())

    @cached_property
    def _specials(self) -> frozenset[int]:
        added = self.tokenizer.added_tokens_decoder
        return frozenset({self.end_token_id, *(i for i, token in added.items() if token.special)})

    def _assemble(self, draft: Draft, ids: list[list[int]]) -> Encoded:
        """Tokens of a draft, from those of its `texts`."""
        chat = not isinstance(draft.record.prompt, str)
        end = self.turn_end_token_id if chat else self.end_token_id
        context_ids, *joints = ids
        prompt_ids, changes = self._prompt(context_ids, chat)
        refs = draft.record.ref_logps or (None,) * len(joints)
        responses = []
        for segments, joint, ref in zip(draft.answers, joints, refs, strict=True):
            answer, scored, merged = self._follow(draft.context, context_ids, segments, joint)
            if not chat and not context_ids:  # bare text may bring the beginning token that now is the prompt
                answer = answer[_leading(answer, self.tokenizer.bos_token_id) :]
            answer = end_once(answer, end)
            if len(answer) == 1:
                raise Defect("empty_response", "nothing but special tokens")
            if len(segments) == 1 and end in answer[:-1]:
                raise Defect("end_inside", f"token {answer.index(end)} of {len(answer)}")
            if scored is not None:
                scored = [*(i for i in scored if i < len(answer) - 1), len(answer) - 1]
            responses.append(Response(token_ids(answer), True, None if scored is None else token_ids(scored), ref))
            changes += ["boundary_merge"] * merged
        return Encoded(prompt_ids, tuple(responses), tuple(changes))

    def _prompt(self, ids: list[int], chat: bool) -> tuple[TokenIds, list[str]]:
        """The prompt's ids with exactly one beginning token, where the tokenizer or the template has one.

        A chat template is trusted: it renders the beginning token, or the model has none. Doubled ones become one.
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
        """Segments one after another: ids, the offsets that are scored (None: all), whether a boundary merged.

        `joint` are the tokens of the context and the first segment together.
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
        """Tokens of a text after a context, and whether joint tokenising would have merged across the boundary.

        Raises:
            Defect: no tokens continue the context's and spell the text.
        """
        if joint[: len(context_ids)] == context_ids:
            return joint[len(context_ids) :], False
        spelled = self.decode(joint)
        for anchor in ANCHORS:
            before, both = self.tokens([anchor, anchor + text])
            ids = both[len(before) :]
            if ids and both[: len(before)] == before and self.decode(context_ids + ids) == spelled:
                return ids, True
        raise Defect("boundary", excerpt(text))


def caught(function: Callable[..., T], *args: Any) -> T | Defect:
    """What the function returns, or the defect it raises."""
    try:
        return function(*args)
    except Defect as defect:
        return defect


def _leading(ids: Sequence[int], token: int | None) -> int:
    """How many of the first ids are this token."""
    return next((i for i, t in enumerate(ids) if t != token), len(ids))


def end_once(ids: list[int], end: int) -> list[int]:
    """These ids with the end token at their end exactly once."""
    while ids and ids[-1] == end:
        ids = ids[:-1]
    return [*ids, end]


def text_of(response: Content) -> str:
    assert isinstance(response, str), "a response has the form of its prompt"
    return response


def turns_of(response: Content) -> Conversation:
    assert isinstance(response, tuple), "a response has the form of its prompt"
    return response
