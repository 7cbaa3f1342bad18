"""Translate a configuration of TRL or axolotl to settings of tiltlm, and say what has no counterpart.

Axolotl's names are first replaced by those of TRL, whose trainers it runs. Every setting of the file is then either
translated or listed with the reason.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tiltlm.config.foreign_names import (
    AXOLOTL,
    AXOLOTL_DEFAULTS,
    NO_COUNTERPART,
    REWARD_DEFAULTS,
    TRL,
    TRL_DEFAULTS,
)
from tiltlm.core import ConfigError
from tiltlm.objectives import knobs, resolve_name
from tiltlm.objectives.catalog.names import FOREIGN_KNOBS

SAME = {name: key for row in TRL for name, key in row.same.items()}
OPTIMIZERS = {
    "adamw": "adamw", "adamw_torch": "adamw", "adamw_torch_fused": "adamw", "adamw_hf": "adamw",
    "adamw_bnb_8bit": "adamw_8bit", "adamw_8bit": "adamw_8bit", "paged_adamw_8bit": "paged_adamw_8bit",
}  # fmt: skip
DIVERGENCES = {"js_divergence": "jensen_shannon", "alpha_divergence": "alpha", "forward_kl": "forward_kl"}
LORA = {
    "lora_r": "r",
    "lora_alpha": "alpha",
    "lora_target_modules": "target_modules",
    "use_rslora": "rslora",
    "use_dora": None,
}
KNOBS = (
    "beta", "label_smoothing", "simpo_gamma", "cpo_alpha", "discopop_tau", "ld_alpha", "rpo_alpha",
    "f_alpha_divergence_coef", "desirable_weight", "undesirable_weight", "alpha",
)  # fmt: skip
"""Settings of TRL's objectives."""


@dataclass
class Translation:
    """Settings of tiltlm, and what to say about them."""

    library: str = "TRL"
    """Whose file it is, for remarks."""
    defaults: Mapping[str, Any] = field(default_factory=lambda: TRL_DEFAULTS)
    """Its defaults: name in TRL → value."""
    tree: dict[str, Any] = field(default_factory=dict)
    """Section → its settings."""
    remarks: dict[str, str] = field(default_factory=dict)
    """Full key → a remark."""
    lost: dict[str, str] = field(default_factory=dict)
    """Setting there, with its value → why it is not translated."""
    notes: list[str] = field(default_factory=list)

    def set(self, key: str, value: Any, remark: str = "") -> None:
        """Set a setting by its full name."""
        section, _, name = key.partition(".")
        if name:
            self.tree.setdefault(section, {})[name] = value
        else:
            self.tree[section] = value
        if remark:
            self.remarks[key] = remark


def translate(document: Mapping[str, Any], objective: str | None = None) -> Translation:
    """Return the settings that do what a configuration of TRL or axolotl does.

    Args:
        document: The content of the file.
        objective: The method; None: that of the file. TRL's files name a loss, but not the trainer that reads them.

    Raises:
        ConfigError: The file is not of TRL or axolotl, or names a method that tiltlm does not have.
    """
    if not {"model_name_or_path", "base_model"} & document.keys():
        raise ConfigError(
            "this is no configuration of TRL (model_name_or_path) or axolotl (base_model)",
            code="unknown_file_format",
            key="--from",
        )
    left = {AXOLOTL.get(key, key): value for key, value in document.items() if value is not None}
    if (loss := document.get("dpo_loss_type")) is not None:
        left["loss_type"] = loss  # replaces that of axolotl's `rl: dpo`
    made = _begin(document, objective)
    for name, key in SAME.items():
        if name in left:
            made.set(key, left.pop(name))
    _objective(left, made, objective)
    _data(left, made)
    _steps(left, made)
    _adapter(left, made)
    _precision(left, made)
    _evaluation(left, made)
    for name, value in left.items():
        if value is not False and value != "no":
            made.lost[f"{name}: {value}"] = NO_COUNTERPART.get(name, "there is no such setting")
    for name, value in made.defaults.items():
        section, _, here = SAME.get(name, "").partition(".")
        if section and here not in made.tree.get(section, {}):
            made.set(f"{section}.{here}", value, f"{made.library}'s default")
    return made


def _begin(document: Mapping[str, Any], objective: str | None) -> Translation:
    """Return an empty translation with the defaults of the trainer that would read the file."""
    if "base_model" in document:
        made = Translation("axolotl", dict(AXOLOTL_DEFAULTS))
    else:
        trains_reward = objective == "reward_model" or document.get("center_rewards_coefficient") is not None
        made = Translation("TRL", dict(REWARD_DEFAULTS if trains_reward else TRL_DEFAULTS))
    if document.get("max_length", 0) is None:
        made.defaults = {name: value for name, value in made.defaults.items() if name != "max_length"}
        made.notes.append("max_length: null is no limit there; data.max_length is the model's window, at most 2,048")
    return made


def _objective(left: dict[str, Any], made: Translation, chosen: str | None) -> None:
    """Translate the method and its knobs."""
    given = {name: left.pop(name) for name in KNOBS if name in left}
    centering, divergence = left.pop("center_rewards_coefficient", None), left.pop("f_divergence_type", "reverse_kl")
    losses, weights = left.pop("loss_type", None), left.pop("loss_weights", None)
    if centering is not None or chosen == "reward_model":
        made.set("objective", {"name": "reward_model", **({"centering": centering} if centering else {})})
        return
    names = [chosen] if chosen else list(losses) if isinstance(losses, list) else [losses or _implied(given)]
    if not chosen and losses is None:
        made.notes.append(
            f"the file names no loss; {names[0]} is assumed, as its trainer has by default. Give --objective NAME for "
            "another trainer (kto, orpo, cpo, simpo, reward_model)"
        )
    used: set[str] = set()
    given["use_weighting"] = left.pop("use_weighting", None) or None
    given["f_divergence_type"] = divergence if divergence != "reverse_kl" else None
    given = {name: value for name, value in given.items() if value is not None}
    terms = [_method(name, given, made, used, is_ours=chosen is not None) for name in names]
    if len(terms) == 1:
        made.set("objective", terms[0])
    else:
        shares = weights or [1.0] * len(terms)
        made.set("objective", {"sum": [{**t, "weight": w} for t, w in zip(terms, shares, strict=True)]})
    for name in given.keys() - used:
        made.lost[f"{name}: {given[name]}"] = "the method has no such setting"


def _implied(given: Mapping[str, Any]) -> str:
    """Return the loss of a file that names none."""
    if "simpo_gamma" in given:
        return "simpo"
    if "cpo_alpha" in given:
        return "cpo"
    return "kto" if {"desirable_weight", "undesirable_weight"} & given.keys() else "sigmoid"


def _method(loss: str, given: Mapping[str, Any], made: Translation, used: set[str], *, is_ours: bool) -> dict[str, Any]:
    """Return the description of one loss; add the names of the settings that it reads to `used`."""
    name = loss if is_ours or loss == "dpo" else f"trl:{loss}"
    if loss in ("sigmoid", "dpo") and not is_ours:
        if "cpo_alpha" in given:
            name = "cpo"
        elif given.get("f_divergence_type") in DIVERGENCES:
            name = "f_dpo"
        elif "use_weighting" in given:
            name = "wpo"
            used.add("use_weighting")
            made.notes.append("use_weighting is wpo; its weights are at most 1, as in the authors' code, TRL's are not")
        elif given.get("rpo_alpha") is not None:
            name = "dpo_nll"
        elif given.get("ld_alpha") is not None:
            name = "ld_dpo"
        elif given.get("label_smoothing"):
            name = "cdpo"
            made.notes.append(
                "label_smoothing with the loss sigmoid is cdpo, as in earlier versions of TRL; TRL 1.16 ignores it "
                "there, which is objective.name=dpo"
            )
    found = resolve_name(name)
    made.notes += [note for note in found.notes if note not in made.notes]
    known = {knob.name for knob in knobs(found.name)}
    spec: dict[str, Any] = {"name": found.name, **found.knobs}
    if found.name == "f_dpo":
        spec["divergence"] = DIVERGENCES.get(given.get("f_divergence_type", ""), "reverse_kl")
        used.add("f_divergence_type")
    defaults: dict[str, Any] = {"beta": 0.1}
    if "gamma_beta_ratio" in known:
        defaults["simpo_gamma"] = 0.5
    if found.name == "robust_dpo":
        defaults["label_smoothing"] = 0.0
    values = {key: value for key, value in {**defaults, **given}.items() if value is not None}
    for key, value in values.items():
        if key in ("f_divergence_type", "use_weighting"):
            continue  # they choose the method, above
        here = FOREIGN_KNOBS.get(key, {}).get(found.name, key).split(",")[0]
        if here in known:
            used.add(key)
            spec[here] = _converted(key, value, float(values["beta"]))
            if key not in given:
                made.remarks[f"objective.{here}"] = "TRL's default"
    return spec


def _converted(name: str, value: Any, beta: float) -> Any:
    """Return the value of a knob here."""
    if name == "simpo_gamma":
        return float(value) / beta
    return 1 - float(value) if name == "f_alpha_divergence_coef" else value


def _data(left: dict[str, Any], made: Translation) -> None:
    """Translate axolotl's list of data sets, splits, and what is held out."""
    listed = left.pop("datasets", None)
    if isinstance(listed, list) and all(isinstance(item, Mapping) and "path" in item for item in listed):
        paths = [item["path"] for item in listed]
        made.set("data.train", paths[0] if len(paths) == 1 else paths)
        if splits := {item["split"] for item in listed if "split" in item}:
            left["dataset_train_split"] = min(splits)
        for item in listed:
            for name in item.keys() - {"path", "split"}:
                made.lost[f"datasets: {item['path']}: {name}: {item[name]}"] = (
                    "the columns say what a row is; see data.columns"
                )
    elif listed is not None:
        left["datasets"] = listed
    source = made.tree.get("data", {}).get("train")
    is_file = isinstance(source, str) and (Path(source).exists() or bool(Path(source).suffix))
    for name, key in (("dataset_train_split", "data.split"), ("dataset_test_split", "data.eval_split")):
        if name in left:
            value = left.pop(name)
            if is_file:
                made.lost[f"{name}: {value}"] = "a file has no splits"
            elif key == "data.split" or left.get("eval_strategy", "no") != "no":
                made.set(key, value)
    share = left.pop("val_set_size", None)
    if share:
        made.set("data.eval_fraction", share)
    elif left.get("eval_strategy", "no") != "no" or "eval_steps" in left:
        if isinstance(source, str) and not is_file:
            made.set("data.eval", source)
        else:
            made.set("data.eval_fraction", 0.1, "held out for the evaluations")
    if mode := left.pop("truncation_mode", None):
        made.notes.append(
            f"truncation_mode: {mode} is not copied: data.truncation=left_prompt keeps responses whole, since a "
            "response without its end teaches not to end"
        )


def _steps(left: dict[str, Any], made: Translation) -> None:
    """Translate the batch, the length of training, the schedule and the optimiser."""
    has_batch = "per_device_train_batch_size" in left
    size = left.pop("per_device_train_batch_size", made.defaults["per_device_train_batch_size"])
    micro = left.pop("gradient_accumulation_steps", made.defaults["gradient_accumulation_steps"])
    stated = f"{made.library}'s default"
    remark = f"{size} × {micro}, for one process; multiply by the number of processes"
    made.set("training.batch_size", int(size) * int(micro), remark if has_batch else f"{stated} {size} × {micro}")
    epochs = left.pop("num_train_epochs", None)
    default = made.defaults["num_train_epochs"]
    if epochs is None or float(epochs) == int(float(epochs)):
        made.set("training.num_epochs", default if epochs is None else int(float(epochs)),
                 stated if epochs is None else "")  # fmt: skip
    else:
        made.lost[f"num_train_epochs: {epochs}"] = "epochs are whole; training.max_steps ends earlier"
    steps = left.pop("max_steps", -1)
    if steps > 0:
        made.set("training.max_steps", steps)
    warmup = left.pop("warmup_steps", 0)
    if warmup and (warmup < 1 or steps > 0):
        made.set("training.warmup_ratio", warmup if warmup < 1 else warmup / steps)
    elif warmup:
        made.lost[f"warmup_steps: {warmup}"] = "training.warmup_ratio is a share of all steps"
    schedule = str(left.pop("lr_scheduler_type", made.defaults["lr_scheduler_type"]))
    if schedule in ("linear", "cosine", "constant"):
        made.set("training.schedule", schedule)
    elif schedule == "constant_with_warmup":
        made.set("training.schedule", "constant")
    else:
        made.lost[f"lr_scheduler_type: {schedule}"] = "training.schedule is linear, cosine or constant"
    optimizer = str(left.pop("optim", "adamw"))
    if optimizer in OPTIMIZERS:
        made.set("training.optimizer", OPTIMIZERS[optimizer])
    else:
        made.lost[f"optim: {optimizer}"] = "training.optimizer is adamw, adamw_8bit or paged_adamw_8bit"


def _adapter(left: dict[str, Any], made: Translation) -> None:
    """Translate LoRA, and a reference that moves."""
    kind = left.pop("adapter", None)
    uses = left.pop("use_peft", False) or kind is not None
    if kind not in (None, "lora"):
        made.lost[f"adapter: {kind}"] = "weights are not quantised; a plain LoRA adapter is trained"
    if folder := left.pop("adapter_folder", None):
        made.set("model.adapter", folder)
        uses = False
    given = {name: left.pop(name) for name in LORA if name in left}
    if uses:
        lora: dict[str, Any] = {"r": 16, "alpha": 32}  # TRL's defaults
        for name, value in given.items():
            here = LORA[name]
            if here is None and value:
                made.lost[f"{name}: {value}"] = "model.lora has no such setting"
            elif here is not None:
                lora[here] = value
        made.set("model.lora", lora)
        if "target_modules" not in lora and not left.get("lora_target_linear"):
            made.notes.append(
                "no lora_target_modules: all linear layers get an adapter here; PEFT chooses by the kind of model, "
                "q_proj and v_proj in most"
            )
        left.pop("lora_task_type", None)
    if left.pop("sync_ref_model", False):
        rate, period = left.pop("ref_model_mixup_alpha", 0.6), left.pop("ref_model_sync_steps", 512)
        made.set("reference.name", "moving")
        made.set("reference.rate", rate)
        made.set("reference.period", period)


def _precision(left: dict[str, Any], made: Translation) -> None:
    """Translate the precision of matrix products."""
    bf16 = left.pop("bf16", None)
    if bf16 is False:
        made.set("model.precision", "float32")
    elif bf16 is True:
        made.notes.append("bf16: true is the default here where the device is faster with it (model.precision=auto)")


def _evaluation(left: dict[str, Any], made: Translation) -> None:
    """Translate when to evaluate, save and log, and where to."""
    evaluates = str(left.pop("eval_strategy", "steps" if "eval_steps" in left else "no"))
    saves = str(left.pop("save_strategy", "steps"))
    for name, key, applies in (
        ("eval_steps", "training.eval_every", evaluates == "steps"),
        ("save_steps", "training.save_every", saves == "steps"),
        ("logging_steps", "training.log_every", True),
    ):
        value = left.pop(name, None)
        if value is None or not applies:
            continue
        if isinstance(value, int) and value >= 1:
            made.set(key, value)
        else:
            made.lost[f"{name}: {value}"] = f"{key} is a number of steps"
    left.pop("logging_strategy", None)
    best = left.pop("metric_for_best_model", "loss")
    bigger = left.pop("greater_is_better", None)
    if left.pop("load_best_model_at_end", False):
        made.set("training.best_metric", best if str(best).startswith("eval_") else f"eval_{best}")
        if bigger is not None:
            made.set("training.best_direction", "max" if bigger else "min")
    trackers = left.pop("report_to", [])
    trackers = [trackers] if isinstance(trackers, str) else list(trackers)
    if left.pop("wandb_project", None):
        trackers.append("wandb")
        made.notes.append("the name of the project is read from WANDB_PROJECT")
    known = [name for name in trackers if name in ("tensorboard", "trackio", "wandb")]
    if installed := [name for name in known if find_spec(name)]:
        made.set("training.trackers", installed)
    for name in sorted({*known} - {*installed}):
        made.lost[f"report_to: {name}"] = f"{name} is not installed; with it, set training.trackers: [{name}]"
    for name in trackers:
        if name not in (*known, "none", "all"):
            made.lost[f"report_to: {name}"] = "training.trackers knows tensorboard, trackio and wandb"


def head_of(path: str, made: Translation) -> Sequence[str]:
    """Return what to write above a translated file."""
    lost = [f"No counterpart: {setting} ({reason})" for setting, reason in made.lost.items()]
    return [f"Translated from {path}.", *lost, *made.notes]
