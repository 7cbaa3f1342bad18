"""Estimate a run before it starts: its settings and data are read as `train` reads them, its weights are not."""

import resource
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from tiltlm.core.example import Example
from tiltlm.core.logps import OF_REFERENCE
from tiltlm.costs.alternatives import alternatives
from tiltlm.costs.devices import GPUS, parse_gpus, this_machine
from tiltlm.costs.estimate import Reads, Workload, costs_of
from tiltlm.costs.lengths import TYPICAL, TYPICAL_ROWS, parse_lengths, typical_examples
from tiltlm.costs.sharing import Sharing
from tiltlm.costs.skeleton import read_blueprint
from tiltlm.data import Encoder
from tiltlm.distributed import Ranks
from tiltlm.logprobs.precision import Precision, choose_precision
from tiltlm.models import load_tokenizer
from tiltlm.models.folders import locate
from tiltlm.models.model_settings import ModelSettings
from tiltlm.objectives import Objective
from tiltlm.objectives.terms import reads_scores
from tiltlm.recipes import train as _  # noqa: F401  this process then holds the libraries that a run's process holds
from tiltlm.recipes.estimating.estimated import Estimate
from tiltlm.recipes.prepare import load_for, note_all
from tiltlm.recipes.progress import ProgressCallback, silent
from tiltlm.recipes.run_settings import RunSettings

NO_DATA = "no-data"
"""Stands for the data where none is given."""


def estimate(
    settings: RunSettings,
    *,
    gpus: str = "cpu",
    tokens: str | None = None,
    prints_json: bool = False,
    progress: ProgressCallback = silent,
) -> Estimate:
    """Count what a run needs, and search for settings with which it fits if it does not.

    Args:
        settings: All settings of the run, checked as for training.
        gpus: Devices, one a process: `8xH100`, `cpu`.
        tokens: Lengths that stand for the data, `P,C,R`; None: the data, or typical lengths where there is none.
        prints_json: Of the result.
        progress: Called while the parts are counted.

    Raises:
        TiltError: something is wrong.
    """
    Ranks.single("estimate")
    count, name = parse_gpus(gpus)
    Sharing.of(settings.training.parallelism, count)  # raises where these devices cannot share the model so
    objective = settings.build_objective()
    is_scorer = reads_scores(objective)
    precision = precision_on(name, settings.model)
    blueprint = read_blueprint(settings.model, precision, is_scorer)
    progress("read the data", 0, 0)
    if settings.data.train == NO_DATA:
        lengths = TYPICAL if tokens is None else parse_lengths(tokens)
        source = f"{TYPICAL_ROWS:,} rows of {', '.join(map(str, lengths))} tokens"
        source += " (typical lengths: no data is given)" if tokens is None else " (--tokens)"
        examples: Sequence[Example] = typical_examples(lengths, TYPICAL_ROWS)
        fingerprint, num_held_out = "typical", 0
    else:
        tokenizer, window, num_embeddings, notes = load_tokenizer(settings.model)
        note_all(notes)
        encoder = Encoder(
            tokenizer, tokenizer.eos_token_id, window, num_embeddings=num_embeddings, reads_whole=is_scorer
        )
        data = load_for(objective, settings.data, encoder, settings.reference.reads_columns)
        examples, fingerprint, num_held_out = data.train, data.fingerprint, len(data.held_out)
        source = "the data"
    device = GPUS[name] if name in GPUS else this_machine(count, resident_bytes)
    progress("count operations and memory", 0, 0)
    workload = Workload(
        blueprint=blueprint,
        training=settings.training,
        examples=examples,
        fingerprint=fingerprint,
        source=source,
        num_held_out=num_held_out,
        reads=what_is_read(settings, objective),
        device=device,
        processes=count,
        file_bytes=bytes_of_files(settings.model),
    )
    costs = costs_of(workload)
    others = []
    if not costs.fits:
        progress("search for settings that fit", 0, 0)
        others = alternatives(workload, costs.plan.longest)
    return Estimate(costs, tuple(others), settings.model.path, prints_json)


def precision_on(device: str, model: ModelSettings) -> Precision:
    """Return the precision of matrix products that a run would choose; every GPU of the table has bf16 products."""
    if device == "cpu":
        return choose_precision(model.precision, torch.device("cpu"), model.dtype)[0]
    if model.precision == "auto":
        return "float32" if model.dtype == "float64" else "bf16"
    return model.precision


def what_is_read(settings: RunSettings, objective: Objective) -> Reads:
    """Return what the objective and its reference add to a step."""
    reference, is_live = settings.reference, bool(objective.extras & OF_REFERENCE)
    statistic, is_coupled = objective.statistic is not None, objective.coupled
    if not objective.needs_reference or reference.reads_columns:
        return Reads(False, False, 0, statistic, is_coupled)
    runs = is_live or reference.moves or not reference.cache
    own = settings.model.lora is None and locate(settings.model.path, settings.model.adapter).adapter is None
    is_other = reference.name not in ("auto", "initial", "base", "moving")
    copies = int(is_other or (runs and own))
    return Reads(not runs, runs, copies, statistic, is_coupled)


def bytes_of_files(model: ModelSettings) -> int:
    """Return the size of a model folder's weights; 0 for a name on the hub, whose files are not here yet."""
    folder = Path(locate(model.path, model.adapter).base)
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder.is_dir() else 0


def resident_bytes() -> int:
    """Return the memory of this process now: the interpreter, libraries and the data, before any model."""
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
