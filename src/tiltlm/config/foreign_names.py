"""Settings of TRL and axolotl beside those here: the table of docs/coming-from-trl.md, and what `--from` translates.

Names of methods are in `objectives.catalog.names`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """Some settings of TRL that belong together."""

    there: str
    """Their names as the page shows them, in Markdown."""
    here: str
    """The counterpart here, in Markdown."""
    note: str = ""
    same: Mapping[str, str] = field(default_factory=dict)
    """Name there → key here, where the value is the same."""


TRL: tuple[Row, ...] = (
    Row("`model_name_or_path`", "`model.path`", "", {"model_name_or_path": "model.path"}),
    Row(
        "`model_revision`, `trust_remote_code`",
        "`model.revision`, `model.trust_remote_code`",
        "",
        {"model_revision": "model.revision", "trust_remote_code": "model.trust_remote_code"},
    ),
    Row(
        "`dataset_name`, `dataset_config`, `dataset_train_split`, `dataset_test_split`",
        "`data.train`, `data.subset`, `data.split`, `data.eval`, `data.eval_split`",
        "files, folders, names on the Hub; `data.eval_fraction` holds out whole prompts",
        {"dataset_name": "data.train", "dataset_config": "data.subset"},
    ),
    Row("`dataset_num_proc`", "`data.processes`", "", {"dataset_num_proc": "data.processes"}),
    Row(
        "`DPOConfig(loss_type=...)`, `KTOTrainer`, `ORPOTrainer`, …",
        "`objective.name`",
        "[names of methods](#names-of-methods)",
    ),
    Row(
        "`RewardTrainer`, `center_rewards_coefficient`, `margin` column",
        "`objective: {name: reward_model, centering: 0.01}`, `offset` column",
        "[reward models](reward-models.md)",
    ),
    Row(
        "`beta`",
        "`beta`; `tau` for `ipo` and `ipo_mean`, `odds_weight` for `orpo`",
        "units differ too: [comparing β](comparing-beta.md)",
    ),
    Row("several `loss_type`, `loss_weights`", "`objective.sum`", "a weighted sum"),
    Row("`ref_model=None`", "`reference: initial` (the default)", "its name and digest are logged"),
    Row(
        "`precompute_ref_log_probs`",
        "always, unless `reference.cache: false`",
        "stored by content, shared by all runs (`reference.store`)",
    ),
    Row(
        "`sync_ref_model`, `ref_model_mixup_alpha`, `ref_model_sync_steps`",
        "`reference: {name: moving, rate: 0.6, period: 512}`",
        "no defaults; works with adapters; saved in checkpoints",
    ),
    Row(
        "`ref_chosen_logps`, `ref_rejected_logps` columns",
        "`reference: columns`",
        "an error that names the columns, unless set",
    ),
    Row(
        "`per_device_train_batch_size` × `gradient_accumulation_steps` × processes",
        "`training.batch_size`",
        "examples of one optimiser step; tiltlm divides them into forwards",
    ),
    Row("(none)", "`training.max_tokens`", "token budget of one forward; changes memory, never the result"),
    Row(
        "`learning_rate`, `weight_decay`, `max_grad_norm`, `adam_beta1`, `adam_beta2`, `adam_epsilon`, `seed`",
        "the same names in `training`",
        "",
        {
            name: f"training.{name}"
            for name in (
                "learning_rate",
                "weight_decay",
                "max_grad_norm",
                "adam_beta1",
                "adam_beta2",
                "adam_epsilon",
                "seed",
            )
        },
    ),
    Row(
        "`num_train_epochs`, `max_steps`, `warmup_steps` below 1 (`warmup_ratio`), `lr_scheduler_type`",
        "`training.num_epochs`, `max_steps`, `warmup_ratio`, `schedule`",
        "transformers 5 has one name for both kinds of warm-up",
        {"warmup_ratio": "training.warmup_ratio"},
    ),
    Row(
        '`max_length` (1024), `truncation_mode="keep_start"`',
        "`data.max_length` (the model's window, at most 2,048), `data.truncation: left_prompt`",
        "a response never loses its end without notice",
        {"max_length": "data.max_length"},
    ),
    Row(
        "`use_peft`, `lora_r`, `lora_alpha`",
        "`model.lora: {r: 16, alpha: 32}`",
        "no dropout; all linear layers by default, where PEFT takes q_proj and v_proj in most models",
    ),
    Row("`bf16`, `fp16`", "`model.precision: auto`, `float32` or `bf16`", "weights stay float32"),
    Row(
        "`gradient_checkpointing=True`",
        "`model.gradient_checkpointing: false`",
        "off by default",
        {"gradient_checkpointing": "model.gradient_checkpointing"},
    ),
    Row(
        "`activation_offloading=True`",
        "`model.activation_offload: true`, with `gradient_checkpointing`",
        "on a GPU only",
        {"activation_offloading": "model.activation_offload"},
    ),
    Row('`optim="adamw_bnb_8bit"`', "`training.optimizer: adamw_8bit`", "extra `quant`; [memory](memory.md)"),
    Row(
        "`router_aux_loss_coef`; if it is not set, that of the model's `config.json`",
        "`training.router_aux_loss_coef: 0.001`",
        "off by default, whatever `config.json` says; each layer separately, over the whole step; "
        "[balancing experts](architecture.md#decisions-and-why)",
        {"router_aux_loss_coef": "training.router_aux_loss_coef"},
    ),
    Row("`torch_compile=True`", "`model.compile: true`", "layer by layer", {"torch_compile": "model.compile"}),
    Row('`train_sampling_strategy="group_by_length"`', "(none)", "nothing is padded"),
    Row("`eval_steps`, `save_steps`, `logging_steps`", "`training.eval_every`, `save_every`, `log_every`"),
    Row(
        "`load_best_model_at_end`, `metric_for_best_model`",
        "`training.best_metric`",
    ),
    Row("`save_total_limit`", "`training.keep_checkpoints`", "", {"save_total_limit": "training.keep_checkpoints"}),
    Row("`resume_from_checkpoint`", "`--resume`", "bit for bit on a CPU"),
    Row("`report_to`", "`training.trackers`", "`metrics.jsonl` always; [live curves](runs.md#live-curves)"),
    Row("`push_to_hub`, `hub_model_id`", "`--push-to-hub NAME`, `tiltlm push`", "private; model, card and report"),
    Row(
        "`fsdp`, `deepspeed`, a configuration of `accelerate`",
        "`training.parallel: shard`",
        "started by torchrun: [several processes and machines](clusters.md)",
    ),
    Row("`output_dir`", "`output`", "", {"output_dir": "output"}),
)
"""The settings of TRL, in the order of the page."""

AXOLOTL: Mapping[str, str] = {
    "base_model": "model_name_or_path",
    "revision_of_model": "model_revision",
    "rl": "loss_type",
    "rl_beta": "beta",
    "dpo_beta": "beta",
    "orpo_alpha": "beta",
    "dpo_loss_type": "loss_type",
    "dpo_loss_weights": "loss_weights",
    "dpo_use_weighting": "use_weighting",
    "micro_batch_size": "per_device_train_batch_size",
    "num_epochs": "num_train_epochs",
    "lr_scheduler": "lr_scheduler_type",
    "optimizer": "optim",
    "sequence_len": "max_length",
    "dpo_label_smoothing": "label_smoothing",
    "kto_desirable_weight": "desirable_weight",
    "kto_undesirable_weight": "undesirable_weight",
    "peft_use_rslora": "use_rslora",
    "dataset_processes": "dataset_num_proc",
    "lora_model_dir": "adapter_folder",
}
"""Name in axolotl → name in TRL; all other settings have one name in both."""

NO_COUNTERPART: Mapping[str, str] = {
    "push_to_hub": "`tiltlm train --push-to-hub NAME`, or `tiltlm push RUN NAME` afterwards",
    "hub_model_id": "`tiltlm train --push-to-hub NAME`, or `tiltlm push RUN NAME` afterwards",
    "fp16": "matrix products are float32 or bfloat16 (model.precision)",
    "dtype": "weights stay float32; model.precision is about matrix products",
    "torch_dtype": "weights stay float32; model.precision is about matrix products",
    "load_in_4bit": "weights are not quantised",
    "load_in_8bit": "weights are not quantised",
    "lora_dropout": "adapters have no dropout, because both responses of a pair share one forward",
    "max_prompt_length": "only data.max_length limits a prompt with its response",
    "max_completion_length": "only data.max_length limits a prompt with its response",
    "attn_implementation": "the attention is chosen by a self-check (model.layout)",
    "flash_attention": "the attention is chosen by a self-check (model.layout)",
    "deepspeed": "start several processes with torchrun, and share memory by training.parallel=shard",
    "fsdp": "start several processes with torchrun, and share memory by training.parallel=shard",
    "fsdp_config": "start several processes with torchrun, and share memory by training.parallel=shard",
    "sample_packing": "nothing is padded",
    "group_by_length": "nothing is padded",
    "chat_template": "the tokenizer's own template is used; data.chat_template takes Jinja text or a file",
    "per_device_eval_batch_size": "training.max_tokens limits every forward",
    "precompute_ref_log_probs": "always done, unless reference.cache is false",
    "run_name": "trackers name a run by its folder",
    "wandb_entity": "wandb reads WANDB_ENTITY",
    "lora_target_linear": "the default of model.lora.target_modules",
}
"""Name in TRL or axolotl → why nothing is set for it here."""

TRL_DEFAULTS: Mapping[str, object] = {
    "learning_rate": 1e-6,
    "num_train_epochs": 3,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "warmup_ratio": 0.0,
    "lr_scheduler_type": "linear",
    "max_length": 1024,
}
"""Defaults of the DPO, KTO, ORPO and CPO trainers of TRL 1.16; a translated file states them."""

REWARD_DEFAULTS: Mapping[str, object] = {**TRL_DEFAULTS, "learning_rate": 1e-4}
"""Defaults of TRL's RewardTrainer."""

AXOLOTL_DEFAULTS: Mapping[str, object] = {
    "num_train_epochs": 1,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "warmup_ratio": 0.03,
    "lr_scheduler_type": "cosine",
    "max_length": 512,
}
"""Defaults of axolotl 0.19 by their names in TRL. It requires a learning rate. Its warm-up has at most 100 steps."""
