"""Settings of a judge, the short form of them as text, and the table of kinds.

A kind is one entry of `KINDS`: the function that makes the judge, the setting that its short form fills, and the
settings that it reads. A setting that a kind does not read is refused.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tiltlm.core.checks import positive, prefix_errors, suggestion
from tiltlm.core.errors import ConfigError
from tiltlm.judging.judge import Comparer, Role, Scorer


class Kind(NamedTuple):
    """One kind of judge."""

    maker: str
    """`module:function`; called with settings and role, it returns the judge. The module is imported on first use."""
    argument: str | None
    """Setting that stands after the colon in the short form `KIND:ARGUMENT`; None: the kind has no argument."""
    reads: tuple[str, ...] = ()
    """Other settings of this kind."""
    needs: tuple[str, ...] = ()
    """Settings without which it cannot be made."""


_SCORERS = "tiltlm.judging.scorers"
_FORWARD = ("max_tokens", "precision")
_RIGHT = ("tolerance", "pattern")
_LANGUAGE = (
    *("url", "mode", "key_variable", "prices", "concurrency", "requests_per_minute", "tokens_per_minute"),
    *("request_timeout", "attempts", "temperature", "max_new_tokens", "allow_self"),
)

_APP = ("host", "port", "address")
KINDS: dict[str, Kind] = {
    "verifier": Kind(
        f"{_SCORERS}.verifier:verifier", "function", ("timeout", "timeout_score", "column"), ("function",)
    ),
    "tests": Kind(f"{_SCORERS}.unit_tests:unit_tests", "column", ("timeout", "timeout_score", "memory")),
    "regex": Kind(f"{_SCORERS}.rules:regex", "pattern", (), ("pattern",)),
    "json_schema": Kind(f"{_SCORERS}.rules:json_schema", "schema", (), ("schema",)),
    "exact": Kind(f"{_SCORERS}.rules:exact", "column", ("pattern",)),
    "numeric": Kind(f"{_SCORERS}.rules:numeric", "column", _RIGHT),
    "reward_model": Kind(f"{_SCORERS}.reward_model:reward_model", "model", _FORWARD, ("model",)),
    "implicit": Kind(
        f"{_SCORERS}.implicit:implicit", "model", (*_FORWARD, "reference", "beta", "mean"), ("model", "reference")
    ),
    "lexicon": Kind(f"{_SCORERS}.plain:lexicon", None),
    "gold": Kind(f"{_SCORERS}.plain:gold", None),
    "length": Kind(f"{_SCORERS}.plain:length", None),
    "pairwise": Kind(
        "tiltlm.judging.language.build:pairwise", "model", (*_FORWARD, *_LANGUAGE, "criteria", "ties"), ("model",)
    ),
    "grade": Kind(
        "tiltlm.judging.language.build:grade",
        "model",
        (*_FORWARD, *_LANGUAGE, "criteria", "levels", "num_draws"),
        ("model",),
    ),
    "rubric": Kind(
        "tiltlm.judging.language.build:rubric", "model", (*_FORWARD, *_LANGUAGE, "items", "column"), ("model",)
    ),
    "panel": Kind("tiltlm.judging.panel:panel", None, ("judges", "combine"), ("judges",)),
    "people": Kind("tiltlm.recipes.labeling.people:people", "database", ("votes", "wait", "names", *_APP)),
}
"""Every kind of judge by its name."""

SELF = "self"
"""Name in `model` of the model that a loop trains."""
COMMON = ("kind", "scale", "audit", "both_orders", "soft")
"""Settings that every kind has."""
FOR_DATA = ("both_orders", "soft")
"""Settings of data that a judge makes, not of what it measures."""

SHORT_FORM = "KIND or KIND:ARGUMENT, such as gold, reward_model:FOLDER or implicit:POLICY@REFERENCE"


@dataclass(frozen=True)
class JudgeSettings:
    """A judge: what scores or compares responses. Which settings have an effect depends on its kind."""

    kind: str
    """Kind of judge: `verifier`, `tests`, `regex`, `json_schema`, `exact`, `numeric`, `reward_model`, `implicit`,
    `lexicon`, `gold`, `length`, `pairwise`, `grade`, `rubric`, `panel` or `people`. Also the short form
    `KIND:ARGUMENT`, such as `reward_model:FOLDER`."""
    model: str | None = None
    """Model folder, or name on the Hugging Face Hub: the reward model, the policy of an implicit reward, or the
    language model that judges. With `url`, the model's name on that server. In a loop `self` is the model that is
    trained, with the weights that it has in each round."""
    reference: str | None = None
    """Model that an implicit reward is measured from."""
    beta: float = 1.0
    """Factor of an implicit reward: β·(log π − log π_ref)."""
    mean: bool = False
    """Divide an implicit reward by the number of tokens of the response."""
    function: str | None = None
    """Function of a verifier, as `module:function`. It is called with prompt, response and row, in another process."""
    pattern: str | None = None
    """Regular expression. For `regex` it is searched in the response; for `exact` and `numeric` it finds the answer
    in the response (its first group, or else all of it; the last match counts)."""
    schema: str | None = None
    """File with a JSON schema."""
    column: str | None = None
    """Column that the judge reads: the right answer (null: `answer`), the unit tests (null: `tests`), or the
    statements of a rubric (null: `rubric`, if `items` is empty)."""
    tolerance: float = 1e-6
    """Largest difference from the right number, relative to it or, for numbers below 1, absolute."""
    timeout: float = 10.0
    """Seconds for one call of a verifier or of unit tests."""
    timeout_score: float | None = None
    """Score of a response that takes longer. Null: an error, and no score."""
    memory: int = 1024
    """Megabytes that unit tests may use."""
    judges: tuple[str, ...] = ()
    """Members of a panel, in short form."""
    combine: Literal["mean", "worst"] = "mean"
    """How a panel decides: by the mean of the members' logits, or by the least certain member (a tie if two
    disagree)."""
    scale: float | None = None
    """Difference of two scores that is one nat of preference: P(a better) = σ((s_a − s_b) / scale). Null: that of
    the audit, else 1."""
    audit: str | None = None
    """JSON file of an audit of this judge, with its `digest` and `scale`. A judge that makes training data needs it."""
    both_orders: bool = True
    """Compare each pair in both orders. False: in one order, chosen by the content of the pair; never for training."""
    soft: bool = True
    """Use probabilities. False: only which response is better."""
    max_tokens: int = 8192
    """Tokens of one forward of a local model."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Precision of matrix products of a local model, as `model.precision`."""

    url: str | None = None
    """Address of an OpenAI-compatible server where a language model judges, such as http://127.0.0.1:8000/v1. Null:
    the model runs in this process."""
    mode: Literal["auto", "decisions", "logprobs", "schema", "json", "regex"] = "auto"
    """How a server is asked: for probabilities of the answers (`decisions`, `logprobs`), or for a written answer in
    JSON (`schema`, `json`) or on the last line of a text (`regex`). `auto`: the first of these that works."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable with the key of the server."""
    prices: str | None = None
    """YAML file with prices of a million tokens: `MODEL: {input: 0.15, output: 0.6}`. A price that is not there is
    unknown."""
    concurrency: int = 8
    """Requests to the server that are under way at the same time."""
    requests_per_minute: float | None = None
    """Most requests to the server in a minute. Null: no limit."""
    tokens_per_minute: float | None = None
    """Most tokens to and from the server in a minute. Null: no limit."""
    request_timeout: float = 120.0
    """Seconds of one request to the server."""
    attempts: int = 6
    """How often a request is sent when the server is busy, fails or does not answer in time."""
    temperature: float | None = None
    """Temperature of answers that a language model writes. Null: 0, or 1 for `grade`."""
    max_new_tokens: int = 1024
    """A written answer that is longer is an error."""
    criteria: str | None = None
    """What makes an answer better, as a sentence for a language model. Null: that it is right, helpful and honest."""
    ties: bool = True
    """Offer a tie to a language model that compares."""
    levels: tuple[str, ...] = ()
    """What the levels of a grade mean, the worst first; 2 to 10. Empty: five levels."""
    num_draws: int = 3
    """How often a language model that writes its grade is asked; the score is the mean."""
    items: tuple[str, ...] = ()
    """Statements of a rubric, as text or as `WEIGHT: text`; the score is Σ weight·P(true) / Σ |weight|. Empty: those
    of the column."""
    allow_self: bool = False
    """Let a language model judge models of its own family. Models prefer answers like their own."""

    database: str | None = None
    """Labelling project in which people judge: a file, which is made if it is new, or postgresql://USER@HOST/NAME.
    Null: label.db."""
    votes: int = 3
    """Votes of people on each pair."""
    wait: Literal["serve", "poll", "stop"] = "serve"
    """What happens until people have voted. `serve`: this process serves the labelling app and waits. `poll`: it waits,
    and another process serves the app. `stop`: it ends with exit code 1, and the same command goes on later."""
    names: tuple[str, ...] = ()
    """People who get a private link under `wait: serve`, if they have none."""
    host: str = "127.0.0.1"
    """Where the app listens under `wait: serve`. Any other address lets other machines reach it."""
    port: int = 8765
    """Port of the app under `wait: serve`; 0 takes a free one."""
    address: str | None = None
    """Address at which people reach the app under `wait: serve`, such as https://label.example.org. Null: that where it
    listens."""

    def __post_init__(self) -> None:
        if ":" in self.kind:
            self._read_short_form()
        if self.kind not in KINDS:
            hint = suggestion(self.kind, KINDS)
            raise ConfigError(
                f"judge.kind is {self.kind!r}{hint} Kinds: {', '.join(KINDS)}", code="unknown_name", key="judge.kind"
            )
        kind = KINDS[self.kind]
        for name in kind.needs:
            if not getattr(self, name):
                raise ConfigError(
                    f"judge.{name} is missing: a judge of kind {self.kind} needs it ({_usage(self.kind)})",
                    code="missing_setting",
                    key=f"judge.{name}",
                )
        read = {*COMMON, *kind.reads, kind.argument}
        self.refuse([field.name for field in fields(self) if field.name not in read], f"the kind is {self.kind}")
        with prefix_errors("judge"):
            for name in ("timeout", "memory", "max_tokens", "beta", "tolerance"):
                positive(**{name: float(getattr(self, name))})
            positive(scale=1.0 if self.scale is None else float(self.scale))

    def refuse(self, names: Iterable[str], reason: str) -> None:
        """Refuse settings that nothing would read.

        Args:
            names: Settings that are not read.
            reason: Why they are not.

        Raises:
            ConfigError: One of them is not at its default.
        """
        for name in names:
            if getattr(self, name) != getattr(JudgeSettings, name, None):
                raise ConfigError(
                    f"judge.{name} has no effect: {reason}; remove it", code="no_effect", key=f"judge.{name}"
                )

    @property
    def given(self) -> dict[str, Any]:
        """The settings that are not at their defaults, as plain values."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}
        return {
            name: value for name, value in values.items() if value != getattr(JudgeSettings, name, None) and value != []
        }

    def _read_short_form(self) -> None:
        """Replace `kind: reward_model:FOLDER` by the settings that it stands for."""
        text = self.kind
        for name, value in parse_judge(text).items():
            if name != "kind" and getattr(self, name) is not None:
                raise ConfigError(
                    f"judge.{name} is {getattr(self, name)!r}, and {text} names it too; remove one",
                    code="conflict",
                    key=f"judge.{name}",
                )
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, judge: "str | Mapping[str, Any] | JudgeSettings") -> "JudgeSettings":
        """Return settings from their short form, or from a mapping of them."""
        if isinstance(judge, JudgeSettings):
            return judge
        given: dict[str, Any] = {"kind": judge} if isinstance(judge, str) else dict(judge)
        known = {field.name for field in fields(cls)}
        for name in given.keys() - known:
            raise ConfigError(
                f"judge.{name}: this setting does not exist{suggestion(name, known)}",
                code="unknown_setting",
                key=f"judge.{name}",
            )
        for name in ("judges", "levels", "items"):
            if name in given:
                given[name] = tuple(given[name])
        return cls(**given)


def _usage(kind: str) -> str:
    argument = KINDS[kind].argument
    if argument is None:
        return kind
    return f"{kind}:MODEL@REFERENCE" if kind == "implicit" else f"{kind}:{argument.upper()}"


def parse_judge(text: str) -> dict[str, Any]:
    """Return the settings that a short form names: `reward_model:FOLDER` → kind and model.

    Raises:
        ConfigError: The kind is unknown or has no argument.
    """
    kind, colon, argument = text.partition(":")
    if kind not in KINDS:
        raise ConfigError(
            f"judge {text!r}: there is no kind {kind!r}{suggestion(kind, KINDS)} Write {SHORT_FORM}, or name a YAML "
            f"file with its settings. Kinds: {', '.join(KINDS)}",
            code="unknown_name",
            key="judge.kind",
        )
    if not colon:
        return {"kind": kind}
    name = KINDS[kind].argument
    if kind == "implicit":
        policy, _, reference = argument.partition("@")
        return {"kind": kind, "model": policy, "reference": reference or None}
    if name is None or not argument:
        wanted = "takes no argument" if name is None else "has an empty argument"
        raise ConfigError(f"judge {text!r}: {kind} {wanted}; write {_usage(kind)}", code="wrong_type", key="judge.kind")
    return {"kind": kind, name: argument}


def build_judge(settings: JudgeSettings | str | Mapping[str, Any], *, role: Role = "held_out") -> Scorer | Comparer:
    """Make a judge from its settings; models are loaded.

    Args:
        settings: Settings, or their short form.
        role: `train` for a judge that makes training data, `held_out` for one that only measures.

    Raises:
        ConfigError: A setting cannot work.
        ModelError: A model cannot be used.
    """
    settings = JudgeSettings.of(settings)
    module, _, function = KINDS[settings.kind].maker.partition(":")
    judge: Scorer | Comparer = getattr(import_module(module), function)(settings, role)
    if isinstance(judge, Comparer) and not judge.scales_logits:
        settings.refuse(["scale"], f"a judge of kind {settings.kind} has no scale")
    audit = None if settings.audit is None else read_audit(settings.audit)
    if audit is not None and audit.digest != judge.digest:
        raise ConfigError(
            f"judge.audit={settings.audit} is the audit of the judge {audit.digest}, and this one is {judge.digest}; "
            "audit this judge, with the same settings",
            code="other_judge",
            key="judge.audit",
        )
    judge.scale = settings.scale or (audit.scale if audit and audit.scale else 1.0)
    return judge


@dataclass(frozen=True)
class Audit:
    """What an audit says about a judge."""

    digest: str
    """Digest of the judge that was audited."""
    scale: float | None
    """Calibrated scale of its scores; None for comparers."""


def read_audit(path: str | Path) -> Audit:
    """Read the JSON file of an audit.

    Raises:
        ConfigError: It is missing, or is no audit.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        scale = content.get("scale")
        return Audit(str(content["digest"]), None if scale is None else float(scale))
    except FileNotFoundError as error:
        raise ConfigError(f"judge.audit={path}: no such file", code="no_such_path", key="judge.audit") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"judge.audit={path} is no audit: it must be a JSON file with `digest` and `scale` ({error})",
            code="damaged",
            key="judge.audit",
        ) from error


def settings_of(texts: Iterable[str]) -> list[JudgeSettings]:
    """Return the settings of several judges from their short forms."""
    return [JudgeSettings.of(text) for text in texts]
