"""Systems by name: model folders, runs and names on the hub are sampled; files are answers that are already there.

Also what every call that judges their answers checks first.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from tiltlm.core import ConfigError, DataError
from tiltlm.data import DataSettings
from tiltlm.data.accounting import Defect
from tiltlm.data.cache.fingerprints import is_held_out
from tiltlm.data.dataset import survey
from tiltlm.data.files.sources import read_rows
from tiltlm.data.files.text_files import Row
from tiltlm.data.rows.cells import TokenContent
from tiltlm.data.rows.columns import detect_prompts
from tiltlm.data.rows.records import Record, to_prompt
from tiltlm.evaluation.answers.benchmark_files import read_outputs, read_questions
from tiltlm.evaluation.answers.systems import System, prompt_key
from tiltlm.judging import Comparer, Judge, Role, Scorer
from tiltlm.judging.judge_settings import FOR_DATA, JudgeSettings, build_judge
from tiltlm.judging.language.family import check_family
from tiltlm.models import ModelSettings, Policy
from tiltlm.models.folders import short_name
from tiltlm.recipes.prepare import EVAL_FRACTION
from tiltlm.recipes.progress import ProgressCallback
from tiltlm.runs import RunDirectory
from tiltlm.sampling import SamplingSettings
from tiltlm.sampling.answers import ENDINGS, AnswerRow, split_ending


@dataclass(frozen=True)
class Named:
    """A system as the user named it."""

    name: str
    path: str
    """A file, a folder, or a name on the hub."""
    kind: Literal["answers", "run", "model"]

    @property
    def model(self) -> str:
        """The model to sample."""
        return str(Path(self.path) / "model") if self.kind == "run" else self.path


def require_prompts(one: Named, prompts: str | None) -> None:
    """Require prompts for a model.

    Raises:
        ConfigError: there are none.
    """
    if one.kind != "answers" and prompts is None:
        raise ConfigError(
            f"{one.name} is a model, and no prompts are given; give --prompts DATA",
            code="missing_setting",
            key="prompts",
        )


def open_judge(judge: Any, role: Role = "held_out") -> Scorer | Comparer:
    """Return a judge from its settings; a judge itself as it is.

    Raises:
        ConfigError: A setting cannot work, or is for making training data only.
        ModelError: Its model cannot be used.
    """
    if isinstance(judge, Scorer | Comparer):
        return judge
    settings = JudgeSettings.of(judge)
    settings.refuse(FOR_DATA, "it is for `tiltlm judge`; here each pair is judged in both orders, and as it comes out")
    made = build_judge(settings, role=role)
    if isinstance(made, Scorer):
        settings.refuse(["scale"], "answers are compared by which score is higher")
    return made


def refuse_own_family(judge: Judge, settings: Any, rows: Iterable[AnswerRow]) -> None:
    """Require that a language model does not judge answers of its own weights or family.

    Args:
        judge: The judge, without its cache.
        settings: Its settings, which may allow it.
        rows: The answers.

    Raises:
        ConfigError: it does.
    """
    systems = {(row.model, row.model_digest) for row in rows}
    check_family(judge, sorted(systems), allow_self=bool(getattr(settings, "allow_self", False)))


def name_systems(texts: Sequence[str | Path]) -> list[Named]:
    """Return the systems that texts name: PATH or NAME=PATH. Without a name it is that of the folder or file.

    Systems with one name get a number: `model`, `model (2)`.

    Raises:
        ConfigError: a run has no trained model, or the text is a setting of the judge.
    """
    found: list[Named] = []
    for text in map(str, texts):
        if text.startswith("judge."):
            raise ConfigError(
                f"{text} is no system; settings of the judge stand in --judge, as a YAML file or a mapping: "
                "'{kind: pairwise, model: M, ...}'",
                code="wrong_type",
                key="systems",
            )
        name, path = split_name(text)
        kind: Literal["answers", "run", "model"] = "model"
        if Path(path).is_file():
            kind = "answers"
        elif (Path(path) / RunDirectory.MARKER).exists():
            kind = "run"
            if not (Path(path) / "model").is_dir():
                raise ConfigError(
                    f"{path}: this run has no model/; it has not ended. Finish it, or name a model folder",
                    code="no_model",
                    key="systems",
                )
        base = name or short_name(path)
        taken = {other.name for other in found}
        numbers = (f"{base} ({k})" for k in range(2, len(texts) + 2))
        unique = base if base not in taken else next(label for label in numbers if label not in taken)
        found.append(Named(unique, path, kind))
    return found


def split_name(text: str) -> tuple[str, str]:
    """Return name and path of NAME=PATH; without a name it is empty. Folders of a sweep have `=` in their names."""
    if Path(text).exists():
        return "", text
    places = [i for i, character in enumerate(text) if character == "="]
    known = [i for i in places if Path(text[i + 1 :]).exists()]
    at = (known or places or [-1])[0]
    return (text[:at], text[at + 1 :]) if at >= 0 else ("", text)


@dataclass(frozen=True)
class Drawing:
    """How answers are drawn from the systems that are models."""

    prompts: str | None
    n: int
    temperatures: tuple[float, ...]
    max_new_tokens: int
    seed: int
    limit: int | None
    folder: Path
    """Where the answers are kept."""
    is_continued: bool
    """Answers in the folder may be those of an earlier call that was stopped."""
    data: DataSettings | None = None
    """How prompts are read and rendered; None: as by default."""
    rows: Sequence[Row] | None = None
    """The rows with the prompts, if they are in memory."""


def read_systems(named: Sequence[Named], drawing: Drawing, progress: ProgressCallback) -> list[System]:
    """Return the answers of all systems: read, or drawn.

    Raises:
        TiltError: a file or model cannot be used.
    """
    questions = read_questions(drawing.prompts) if drawing.prompts and Path(drawing.prompts).is_file() else {}
    systems = []
    for one in named:
        if one.kind == "answers":
            rows = tuple(read_outputs(one.path, questions))
        else:
            progress(f"sample {one.name}", 0, 0)
            rows = draw_answers(one, drawing, progress)
        run = Path(one.path) if one.kind == "run" else None
        trained = None if run is None else trained_prompts(run)
        systems.append(System(one.name, rows, trained, frozenset() if run is None else label_judges(run)))
    return systems


def draw_answers(
    one: Named,
    drawing: Drawing,
    progress: ProgressCallback,
    *,
    model: ModelSettings | None = None,
    policy: Callable[[], Policy] | None = None,
) -> tuple[AnswerRow, ...]:
    """Draw the answers of a model. Each system has random numbers of its own, so that answers are independent.

    Equal random numbers would make the answers of like models alike, and their win rate that of coupled draws.

    Args:
        one: The system.
        drawing: Its prompts, and how answers are drawn.
        progress: Called with the number of answers that are drawn.
        model: Settings of the model; None: only its path is given.
        policy: Loads the model; None: it is loaded from its path.
    """
    from tiltlm.recipes.answers.sample import sample
    from tiltlm.recipes.answers.sample_settings import SampleRequest, SampleSettings

    data = drawing.data
    if data is None:
        assert drawing.prompts is not None, "checked before"
        data = DataSettings(drawing.prompts)
    digest = hashlib.blake2b(f"{drawing.seed}/{one.name}".encode(), digest_size=4).digest()
    settings = SampleSettings(model or ModelSettings(one.model), data, SamplingSettings(drawing.max_new_tokens))
    output = drawing.folder / f"{file_name(one.name)}.jsonl"
    request = SampleRequest(
        n=drawing.n,
        temperatures=drawing.temperatures,
        seed=int.from_bytes(digest, "big"),
        limit=drawing.limit,
        output=output,
        resume=drawing.is_continued,
        overwrite=not drawing.is_continued,
    )
    loaded = None if policy is None else policy()
    return tuple(sample(settings, request, rows=drawing.rows, policy=loaded, progress=progress).rows)


def file_name(name: str) -> str:
    """Return a name as the name of a file."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "=.-_+") else "_" for c in name)[:100]


def trained_prompts(run: Path) -> frozenset[str] | None:
    """Return the keys of the prompts that a run was trained on; None if its data cannot be read any more."""
    with suppress(OSError, yaml.YAMLError, KeyError, TypeError, DataError, ConfigError):
        config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        return _prompts_of(data_settings(config["data"]))
    return None


def label_judges(run: Path) -> frozenset[str]:
    """Return the digests of the judges that made the training data of a run, from the records beside its files."""
    found: set[str] = set()
    with suppress(OSError, yaml.YAMLError, KeyError, TypeError, ValueError):
        config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        named = config["data"]["train"]
        for file in map(Path, [named] if isinstance(named, str) else named):
            if file.name.lower().endswith(ENDINGS):
                record = file.with_name(f"{split_ending(file.name)[0]}.judge.json")
                found.add(str(json.loads(record.read_text(encoding="utf-8"))["judge"]["digest"]))
    return frozenset(found)


def data_settings(section: Mapping[str, Any]) -> DataSettings:
    """Return the settings of data from a resolved configuration."""
    given: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in section.items()}
    return DataSettings(**given)


def _prompts_of(settings: DataSettings) -> frozenset[str]:
    contents = (record.prompt for _, record in _prompt_rows(settings, held_out=False))
    return frozenset(prompt_key(c) for c in contents if c is not None and not isinstance(c, TokenContent))


def held_out_rows(settings: DataSettings) -> list[Row]:
    """Return the rows whose prompts a run with these settings holds out.

    Raises:
        ConfigError: there are none.
    """
    found = [row for row, _ in _prompt_rows(settings, held_out=True)]
    if not found:
        raise ConfigError(
            "the runs hold out no prompts; name others with --prompts DATA", code="missing_setting", key="prompts"
        )
    return found


def _prompt_rows(settings: DataSettings, *, held_out: bool) -> Iterator[tuple[Row, Record]]:
    """Yield the rows that a run holds out, or those that it is trained on, with their prompts."""
    fraction = settings.eval_fraction
    if fraction is None:
        fraction = 0.0 if settings.eval is not None else EVAL_FRACTION
    is_separate = held_out and settings.eval is not None
    rows = read_rows(settings, held_out=is_separate)
    schema = detect_prompts(survey([rows])[0], settings)
    for row in rows:
        with suppress(Defect):
            record = to_prompt(row, schema)
            if is_separate or is_held_out(record.prompt_key, fraction, settings.eval_seed) == held_out:
                yield row, record
