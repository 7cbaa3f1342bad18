"""Presets: each online method of the literature as settings of one loop."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from tiltlm.core.checks import suggestion
from tiltlm.core.errors import ConfigError


@dataclass(frozen=True)
class Preset:
    """One method: what it draws, who judges, what it trains, and its reference, as settings."""

    title: str
    source: str
    differs: str
    """What differs from the paper, or must be given."""
    fails: str
    """How it fails, and what to look at."""
    settings: Mapping[str, Any]
    """Section → values. Every one may be overridden."""
    judge: str = ""
    """The judge, in short form, if the method names one; it may be overridden."""


def _preset(title: str, source: str, differs: str, fails: str, *, judge: str = "", **settings: Any) -> Preset:
    return Preset(title, source, differs, fails, MappingProxyType(settings), judge)


_STEP = {"num_epochs": 1, "batch_size": 64, "schedule": "constant"}
"""A round is one optimiser step."""

PRESETS: Mapping[str, Preset] = {
    "online_dpo": _preset(
        "Online DPO: two fresh samples of each prompt, judged, and one step of DPO",
        "Guo et al. 2024, arXiv 2402.04792 (OAIF), Algorithm 1",
        "The label is the judge's probability. With hard labels (examples.soft=false) the optimum is not finite.",
        "The judge's own mistakes are learned: look at length, and at a judge that does not train. Where most "
        "pairs tie, steps are small.",
        loop={"n": 2, "prompts_per_round": 64},
        examples={"rule": "pair"},
        objective={"name": "dpo", "beta": 0.1},
        training=_STEP,
    ),
    "online_ipo": _preset(
        "Online IPO: two fresh samples of each prompt, compared, and one step of IPO",
        "Calandriello et al. 2024, arXiv 2403.08635",
        "With the judge's probabilities as labels it ends at the regularised Nash equilibrium π_ref·e^{P(·≻π)/τ}; the "
        "paper draws one label, which has the same mean.",
        "The optimum depends on who samples, and τ is in nats of the whole response: a small τ aims far.",
        loop={"n": 2, "prompts_per_round": 64},
        examples={"rule": "pair"},
        objective={"name": "ipo", "tau": 0.1},
        training=_STEP,
    ),
    "iterative_dpo": _preset(
        "Iterative DPO: the best against the worst of eight samples, in few large rounds",
        "Xiong et al. 2023, arXiv 2312.11456; Dong et al. 2024, arXiv 2405.07863",
        "Best and worst chosen by a noisy judge overstate its preference: keep soft labels with a calibrated scale. "
        "The published runs reset the reference (loop.reference=reset).",
        "Answers grow longer where the judge likes length. Late in a round its samples are no longer the policy's own.",
        loop={"n": 8, "prompts_per_round": 1024, "rounds": 3, "restarts": True},
        examples={"rule": "best_worst"},
        objective={"name": "dpo", "beta": 0.1},
        training={"num_epochs": 2, "batch_size": 32},
    ),
    "d2po": _preset(
        "D2PO: online DPO by a reward model that learns from few labels of the judge in each round",
        "Singhal et al. 2024, arXiv 2405.01511, Algorithm 1",
        "The paper begins with a reward model trained on pairs: name it as learned_judge.model. Without one it begins "
        "as the policy with a new score head, and its first labels are little better than chance. The published code "
        "sums the loss over a batch; its learning rates are 5e-5 (policy) and 1e-4 (reward model), for models of 125M "
        "to 7B.",
        "While the learned judge knows little, its labels are noise, and they are learned as if they were certain. The "
        "policy may find texts that the learned judge has never seen labelled: look at a held-out judge. `agreement` "
        "is measured on the pairs that are bought, which with learned_judge.choose=closest are the hardest.",
        loop={"n": 2, "prompts_per_round": 128},
        examples={"rule": "pair", "soft": False},
        learned_judge={"labels": 16},
        objective={"name": "dpo", "beta": 0.05},
        training={**_STEP, "batch_size": 32},
    ),
    "spin": _preset(
        "SPIN: the responses of the data against the policy's own, each round with a new reference",
        "Chen et al. 2024, arXiv 2401.01335, Algorithm 1",
        "Needs no judge, and data with responses. It ends where the policy writes like the data, so it is no better "
        "than its data; repeated rounds learn its noise too.",
        "Once policy and data are alike, pairs differ by chance only, and every further round learns noise.",
        loop={"n": 1, "prompts_per_round": 1024, "rounds": 3, "reference": "reset", "restarts": True},
        rivals={"data": True},
        examples={"rule": "versus_data"},
        objective={"name": "dpo", "beta": 0.1},
        training={"num_epochs": 2, "batch_size": 64},
    ),
    "raft": _preset(
        "RAFT: supervised training on the best of eight samples",
        "Dong et al. 2023, arXiv 2304.06767",
        "Each round continues from the policy of the last one. examples.rule=top ranks all samples of a round "
        "together; easy prompts then win.",
        "Entropy falls from round to round until all samples of a prompt are alike, and then nothing is left "
        "to choose.",
        loop={"n": 8, "prompts_per_round": 64},
        examples={"rule": "best"},
        objective={"name": "sft"},
        training=_STEP,
    ),
    "rft": _preset(
        "Rejection-sampling fine-tuning: supervised training on all distinct correct samples",
        "Yuan et al. 2023, arXiv 2308.01825",
        "Needs a judge that scores, usually a verifier; examples.threshold is the least score of a correct sample.",
        "Prompts without a correct sample teach nothing, so hard prompts drop out. A verifier that can be fooled is.",
        loop={"n": 8, "prompts_per_round": 256, "rounds": 3},
        examples={"rule": "correct"},
        objective={"name": "sft"},
        training={"num_epochs": 1, "batch_size": 64},
    ),
    "rebel": _preset(
        "REBEL: regression of the difference of log-ratios onto that of rewards, each round with a new reference",
        "Gao et al. 2024, arXiv 2404.16767, Algorithm 1",
        "The reward's unit is the step size: objective.eta is in nats per unit of score. The KL to the first policy "
        "has no bound.",
        "The unit of the score is the step: an outlier of the judge is a target far away. Without stop.kl "
        "nothing ends it.",
        loop={"n": 2, "prompts_per_round": 64, "reference": "reset"},
        examples={"rule": "pair"},
        objective={"name": "rebel", "eta": 1.0},
        training={"num_epochs": 4, "batch_size": 64, "schedule": "constant"},
    ),
    "gvpo": _preset(
        "GVPO: REBEL on all pairs of a group of samples, against a fixed reference",
        "Zhang et al. 2025, arXiv 2504.19599",
        "The optimum is π_ref·e^{η r}/Z, whatever policy draws the samples.",
        "The unit of the score sets the distance to the reference, η times its range in nats.",
        loop={"n": 8, "prompts_per_round": 64},
        examples={"rule": "all_pairs"},
        objective={"name": "rebel", "eta": 1.0},
        training=_STEP,
    ),
    "reinforce": _preset(
        "REINFORCE: one sample of each prompt, against the average reward of earlier rounds",
        "Ahmadian et al. 2024, arXiv 2402.14740; Williams 1992",
        "The KL is a reward to go of each token, whose gradient is exact.",
        "With one sample a prompt the gradient is noisy: a learning rate that RLOO takes may break it.",
        loop={"n": 1, "prompts_per_round": 64},
        examples={"rule": "running_mean"},
        objective={"name": "reinforce", "beta": 0.05},
        training=_STEP,
    ),
    "rloo": _preset(
        "RLOO: four samples of each prompt, each against the mean reward of the other three",
        "Ahmadian et al. 2024, arXiv 2402.14740",
        "The KL is in the reward of the whole response, as published; objective.name=reinforce has less noise.",
        "Prompts whose samples score alike give nothing. Long answers make noisy gradients.",
        loop={"n": 4, "prompts_per_round": 64},
        examples={"rule": "loo"},
        objective={"name": "rloo", "beta": 0.03},
        training=_STEP,
    ),
    "grpo": _preset(
        "GRPO: eight samples of each prompt, with scores standardised within the prompt",
        "Shao et al. 2024, arXiv 2402.03300",
        "Without a KL by default, as libraries have it now; the paper has objective.beta=0.04 and "
        "objective.kl=k3_as_printed. Prompts whose samples score alike give nothing.",
        "Wrong answers get longer, since a token of a long sample counts less. Hard and easy prompts count "
        "more than middling ones. Without a KL nothing bounds the distance to the reference.",
        loop={"n": 8, "prompts_per_round": 64},
        examples={"rule": "group_std"},
        objective={"name": "grpo"},
        training=_STEP,
    ),
    "dr_grpo": _preset(
        "Dr. GRPO: GRPO without dividing by the length or by the deviation of the scores",
        "Liu et al. 2025, arXiv 2503.20783",
        "The paper divides by a fixed number of tokens (objective.horizon), which Adam does not see.",
        "Prompts with a wider range of scores count more. Without a KL nothing bounds the distance to the reference.",
        loop={"n": 8, "prompts_per_round": 64},
        examples={"rule": "mean"},
        objective={"name": "dr_grpo"},
        training=_STEP,
    ),
    "dapo": _preset(
        "DAPO: GRPO with a wider upper clip, every token counting the same, and four steps a round",
        "Yu et al. 2025, arXiv 2503.14476",
        "Prompts whose samples score alike are replaced by others, at most twice as many as there were. The soft "
        "penalty of overlong samples is shaping.overlong_tokens.",
        "Long samples count more than short ones. Without a KL nothing bounds the distance to the reference.",
        loop={"n": 8, "prompts_per_round": 64, "refills": 2},
        examples={"rule": "group_std"},
        objective={"name": "dapo"},
        training={**_STEP, "batch_size": 16},
    ),
    "gspo": _preset(
        "GSPO: GRPO whose ratio is that of the whole response",
        "Zheng et al. 2025, arXiv 2507.18071",
        "Four steps a round. The clips are far smaller than those of a ratio per token.",
        "One ratio clips all tokens of a response or none, and its clips fit one kind of model and length.",
        loop={"n": 8, "prompts_per_round": 64},
        examples={"rule": "group_std"},
        objective={"name": "gspo"},
        training={**_STEP, "batch_size": 16},
    ),
    "cispo": _preset(
        "CISPO: REINFORCE with truncated importance weights, four steps a round",
        "MiniMax 2025, arXiv 2506.13585",
        "Only large weights are truncated; no token loses its gradient.",
        "Nothing stops a bad sample from being pushed down further: with a learning rate that is too high all "
        "probability is lost.",
        loop={"n": 8, "prompts_per_round": 64},
        examples={"rule": "group_std"},
        objective={"name": "cispo"},
        training={**_STEP, "batch_size": 16},
    ),
    "reinforce_pp": _preset(
        "REINFORCE++: one sample of each prompt, advantages whitened over the step",
        "Hu et al. 2025, arXiv 2501.03262",
        "Whitening rescales the KL too, so its strength changes from step to step. examples.rule=mean with several "
        "samples is the published variant with a baseline.",
        "Prompts are not told apart: an easy prompt looks good, a hard one bad, whatever the policy does.",
        loop={"n": 1, "prompts_per_round": 128},
        examples={"rule": "score"},
        objective={"name": "reinforce_pp"},
        training={**_STEP, "batch_size": 128},
    ),
    "ppo": _preset(
        "PPO: one sample of each prompt, advantages from a critic that learns beside the policy, four steps a round",
        "Schulman et al. 2017, arXiv 1707.06347; Ouyang et al. 2022, arXiv 2203.02155",
        "The critic is a linear layer on the policy's states and begins at 0. loop.kl_target steers the KL coefficient "
        "as in arXiv 1909.08593.",
        "Until the critic has learned, its advantages are noise with a bias. Whitening rescales the KL too.",
        loop={"n": 1, "prompts_per_round": 128},
        examples={"rule": "score"},
        objective={"name": "ppo"},
        training={**_STEP, "batch_size": 32},
    ),
    "max_rl": _preset(
        "MaxRL: eight samples of each prompt, advantages divided by the mean reward",
        "arXiv 2602.02710",
        "For right and wrong answers: hard prompts count more, in the limit as the log of the success rate. Scores "
        "must be at least 0.",
        "A prompt that is solved once among many has a large weight, so a lucky guess or a wrong verdict counts much.",
        loop={"n": 8, "prompts_per_round": 64},
        examples={"rule": "max_rl"},
        objective={"name": "reinforce", "beta": 0.0},
        training=_STEP,
    ),
    "opd": _preset(
        "On-policy distillation: towards a teacher, on the policy's own samples",
        "Agarwal et al. 2023, arXiv 2306.13649; Gu et al. 2023, arXiv 2306.08543",
        "Needs no judge. The teacher is reference.name, a folder of a model with the same tokenizer.",
        "What the policy never says, the teacher cannot correct. Where the teacher gives nearly no "
        "probability, gradients jump.",
        loop={"n": 1, "prompts_per_round": 64},
        examples={"rule": "unscored"},
        objective={"name": "opd"},
        training=_STEP,
    ),
    "nash_md": _preset(
        "Nash-MD: a sample of the policy against one of its mixture with the reference, as a policy gradient",
        "Munos et al. 2023, arXiv 2312.00886",
        "The mixture is of next tokens, normalised each. With it the fixed point is π_ref·e^{P(·≻mixture)/τ}, the Nash "
        "equilibrium only without it: examples.rule=loo, loop.n=2, rivals.n=0. Needs a judge that compares, or "
        "probabilities from scores.",
        "Preferences that are hard to tell apart give advantages near 0. The KL coefficient is in units of "
        "probability.",
        loop={"n": 1, "prompts_per_round": 64},
        rivals={"n": 1, "mix": 0.5},
        examples={"rule": "against"},
        objective={"name": "reinforce", "beta": 0.1},
        training=_STEP,
    ),
    "xpo": _preset(
        "XPO: a sample of the policy against one of the reference, which is also made less probable, to explore",
        "Xie et al. 2024, arXiv 2405.21046, Algorithm 1",
        "All earlier rounds are trained on again. The second weight is 2·alpha, since its divisor counts both samples; "
        "alpha 1e-5 is that of TRL 1.15. It has no lower bound for samples that always lose.",
        "Samples that the reference draws and that always lose fall without end.",
        loop={"n": 1, "prompts_per_round": 1024, "rounds": 3, "past_rounds": 3},
        rivals={"n": 1},
        examples={"rule": "explore"},
        objective={
            "sum": [{"name": "dpo", "beta": 0.1, "weight": 1.0}, {"name": "reinforce", "beta": 0.0, "weight": 2e-5}]
        },
        training={"num_epochs": 1, "batch_size": 64},
    ),
    "sppo": _preset(
        "SPPO: log-ratios of the best and the worst of five samples towards their win rates",
        "Wu et al. 2024, arXiv 2405.00675",
        "The published β 0.001 aims at hundreds of nats; the default here is that. Win rates are within the five.",
        "Targets far beyond reach make every gradient alike; the constant that stands for log Z is exact for "
        "small steps only.",
        loop={"n": 5, "prompts_per_round": 1024, "rounds": 3, "reference": "reset", "restarts": True},
        examples={"rule": "best_worst", "win_rates": True},
        objective={"name": "sppo", "beta": 0.001, "baseline": 0.5},
        training={"num_epochs": 1, "batch_size": 64},
    ),
    "dno": _preset(
        "DNO: all pairs of five samples and the response of the data, with labels from win rates",
        "Rosset et al. 2024, arXiv 2404.03715, Algorithm 1",
        "Win rates are within the six. The practical variant is examples.rule=best_worst with objective.name=dpo and a "
        "gap.",
        "A win rate among a few samples is coarse and shrinks toward ½.",
        loop={"n": 5, "prompts_per_round": 1024, "rounds": 3, "reference": "reset", "restarts": True},
        rivals={"data": True},
        examples={"rule": "all_pairs", "win_rates": True},
        objective={"name": "dno", "eta": 0.1},
        training={"num_epochs": 1, "batch_size": 64},
    ),
    "a_star_po": _preset(
        "A*-PO: the score of one sample minus the value of its prompt, which eight samples of the reference give",
        "Brantley et al. 2025, arXiv 2505.20686, Algorithm 1",
        "The paper draws the eight samples once for each prompt; here each round draws its own.",
        "What the reference never answers well has no value to learn from. The estimate of the value is too "
        "low with few samples.",
        loop={"n": 1, "prompts_per_round": 64},
        rivals={"n": 8},
        examples={"rule": "value_gap", "value_beta": 0.5},
        objective={"name": "a_star_po", "beta": 0.001},
        training=_STEP,
    ),
    "bond": _preset(
        "J-BOND: imitates the better of two anchor samples, and lowers a sample that is below both",
        "Sessa et al. 2024, arXiv 2407.14622, Algorithm 2",
        "The anchor is a moving average of the policy, so the KL to the first policy has no bound. Without the paper's "
        "further KL to the anchor (γ = 0).",
        "The anchor follows the policy, so the KL to the first policy grows without bound: set stop.kl.",
        loop={"n": 1, "prompts_per_round": 128, "reference": "average", "rate": 0.02},
        rivals={"n": 2},
        examples={"rule": "bond", "imitation": 1.0},
        objective={"name": "reinforce", "beta": 1.0},
        training={**_STEP, "batch_size": 128},
    ),
    "self_rewarding": _preset(
        "Self-rewarding: the policy grades its own four samples, the best against the worst",
        "Yuan et al. 2024, arXiv 2401.10020",
        "The judge's weights are those of the round. The grade is its expected level under the probabilities of its "
        "labels, where the paper averages three written grades. Needs --held-out-judge: the policy's own grades cannot "
        "show whether it gets better.",
        "It learns to please itself: grades rise while answers get worse. A small model's labels have little "
        "probability together, and then its grades are errors.",
        judge="grade:self",
        loop={"n": 4, "prompts_per_round": 1024, "rounds": 3, "reference": "reset", "restarts": True},
        sampling={"temperature": 0.7, "top_p": 0.9},
        examples={"rule": "best_worst"},
        objective={"name": "dpo", "beta": 0.1},
        training={"num_epochs": 1, "batch_size": 64},
    ),
    "constitutional": _preset(
        "Constitutional AI: the policy criticises its sample by a principle and writes it again",
        "Bai et al. 2022, arXiv 2212.08073",
        "The principles are rivals.constitution, a YAML file. Without a judge each revision counts as better; with one "
        "(examples.rule=pair) by its probability. objective.name=sft trains on the revisions, the paper's first stage. "
        "Look for refusals and for length.",
        "A small model criticises and revises badly. Revisions refuse more, and get longer or shorter as a whole.",
        loop={"n": 1, "prompts_per_round": 1024, "rounds": 1},
        rivals={"revisions": 1},
        examples={"rule": "revised"},
        objective={"name": "dpo", "beta": 0.1},
        training={"num_epochs": 1, "batch_size": 64},
    ),
}
"""Every preset by its name."""


def preset_of(name: str) -> Preset:
    """Return a preset.

    Raises:
        ConfigError: There is none of this name.
    """
    if name not in PRESETS:
        raise ConfigError(
            f"preset {name!r} does not exist{suggestion(name, PRESETS)} Presets: {', '.join(PRESETS)}",
            code="unknown_name",
            key="preset",
        )
    return PRESETS[name]
