"""What browser and server say to each other."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from tiltlm.labeling.queue.ballots import MAX_NOTE
from tiltlm.labeling.store.database import storable

MAX_REASON = 200
MAX_INTEGER = 2**31 - 1
"""Of a column in PostgreSQL."""


def _clean(value: object) -> object:
    """Return a text that any database can hold, so that a strange character does not lose a vote."""
    return storable(value) if isinstance(value, str) else value


def _whole(value: object) -> object:
    """Return 2 for 2.0: both are the same number in JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{8,64}$", description="Names the request; made by the browser.")]
Ticket = Annotated[str, Field(pattern="^[0-9a-f]{32}$", description="Names a pair that was given to this person.")]
Note = Annotated[str, Field(max_length=MAX_NOTE), BeforeValidator(_clean)]
Reason = Annotated[str, Field(min_length=1, max_length=MAX_REASON, pattern=r"\S"), BeforeValidator(_clean)]
Count = Annotated[int, Field(ge=0, le=MAX_INTEGER), BeforeValidator(_whole)]
Version = Annotated[int, Field(ge=1, le=MAX_INTEGER), BeforeValidator(_whole)]
Strength = Annotated[int, Field(ge=1, le=3), BeforeValidator(_whole)]


class Request(BaseModel):
    """A request: nothing is converted, and nothing unknown is passed over."""

    model_config = ConfigDict(strict=True, extra="forbid")


class SignIn(Request):
    """A token from a private link."""

    token: Annotated[str, Field(min_length=1, max_length=200)]


class Nothing(Request):
    """An empty object."""


class _AnyVote(Request):
    ticket: Ticket
    key: Key
    note: Note = ""
    dwell_ms: Count | None = None
    client_time: Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)] | None = None
    guideline_version: Version | None = None


class Judgement(_AnyVote):
    """A vote that says something about the pair."""

    choice: Literal["left", "right", "tie", "both_bad"]
    strength: Strength | None = None
    reason: Literal[""] = ""


class Skip(_AnyVote):
    """A vote that says why there is none."""

    choice: Literal["skip"]
    strength: None = None
    reason: Reason


Vote = Annotated[Judgement | Skip, Field(discriminator="choice")]


class Undo(Request):
    """Take back the newest vote."""

    key: Key


class Answer(BaseModel):
    """An answer: nothing beyond what is described. Tests hold it; at run time nothing is checked again."""

    model_config = ConfigDict(extra="forbid")


class SignedIn(Answer):
    """Whose session it is."""

    name: str
    role: Literal["annotator", "adjudicator", "admin"]


class Guidelines(Answer):
    """A version of the guidelines."""

    version: int
    html: str


class Me(SignedIn):
    """What the page needs to know once."""

    title: str
    ties: bool
    strength: bool
    skip_reasons: list[str]
    guidelines: Guidelines
    ui_version: str


class Turn(Answer):
    """A turn of a conversation."""

    role: str
    html: str
    text: str


class System(Answer):
    """A system prompt."""

    html: str
    text: str


class Item(Answer):
    """A pair, as one person sees it."""

    ticket: str
    is_calibration: bool
    system: System | None
    prompt: list[Turn]
    left: list[Turn]
    right: list[Turn]


class ProgressOut(Answer):
    """How far the person is."""

    done: int
    left: int
    calibration_left: int


class Work(Answer):
    """What the person works on; the first item is the current one."""

    items: list[Item]
    progress: ProgressOut


class Feedback(Answer):
    """The known answer of a calibration pair."""

    is_right: bool
    answer: Literal["left", "right", "tie"]
    html: str


class Voted(Work):
    """The vote counts."""

    feedback: Feedback | None


class Undone(Answer):
    """What the vote had said."""

    choice: Literal["left", "right", "tie", "both_bad", "skip"]
    note: str


class UndoneWork(Work):
    """The vote was taken back; its pair is the first item."""

    undone: Undone


class Part(Answer):
    """A piece of a text."""

    kind: Literal["same", "changed"]
    text: str


class Diff(Answer):
    """Two texts, with what differs."""

    left: list[Part]
    right: list[Part]


class Empty(Answer):
    """An empty object."""


class ErrorBody(Answer):
    """What went wrong."""

    code: str
    message: str


class Problem(Answer):
    """An answer that is no success."""

    error: ErrorBody
