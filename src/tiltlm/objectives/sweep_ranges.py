"""Values over which each method is tuned when methods are compared: published ranges where there are some."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from tiltlm.objectives.catalog.registry import knobs

SIMPO = "as in SimPO's comparison of methods (arXiv 2405.14734)"
OURS = "our choice, around the published default"


@dataclass(frozen=True)
class SweepRange:
    """The values of a method's knobs that a comparison tries."""

    values: Mapping[str, tuple[float, ...]]
    """Knob → values; empty for a method without knobs."""
    source: str

    @property
    def settings(self) -> list[dict[str, float]]:
        """Every combination of the values."""
        return [dict(zip(self.values, chosen, strict=True)) for chosen in product(*self.values.values())]

    @property
    def text(self) -> str:
        """The range in words: `beta 0.01, 0.05, 0.1; source`."""
        parts = [f"{knob} {', '.join(f'{value:g}' for value in values)}" for knob, values in self.values.items()]
        return "; ".join([*parts, self.source]) if parts else "no knobs; only the learning rate"


BETAS = (0.01, 0.05, 0.1)

RANGES: Mapping[str, SweepRange] = {
    **dict.fromkeys(("dpo", "kto", "cpo"), SweepRange({"beta": BETAS}, SIMPO)),
    **dict.fromkeys(
        ("dpo_nll", "f_dpo", "pl_dpo", "wpo", "aot", "aot_unpaired", "bco", "bco_pair", "nca", "info_nca"),
        SweepRange({"beta": BETAS}, OURS),
    ),
    **dict.fromkeys(("apo_zero", "apo_down", "tdpo1"), SweepRange({"beta": (0.03, 0.1, 0.3)}, OURS)),
    "ipo": SweepRange({"tau": (0.01, 0.03, 0.1, 0.3)}, OURS),
    "ipo_mean": SweepRange({"tau": (0.01, 0.1, 0.5, 1.0)}, SIMPO),
    "ln_dpo": SweepRange({"beta": (2.0, 5.0, 10.0)}, OURS),
    "length_dpo": SweepRange({"alpha": (0.05, 0.1, 0.5, 1.0), "beta": BETAS}, SIMPO),
    "ld_dpo": SweepRange({"beta": BETAS, "alpha": (0.3, 0.5, 0.7)}, OURS),
    "cdpo": SweepRange({"beta": BETAS, "label_smoothing": (0.1, 0.2)}, OURS),
    "robust_dpo": SweepRange({"beta": BETAS, "label_smoothing": (0.1, 0.2)}, OURS),
    "discopop": SweepRange({"beta": BETAS}, OURS),
    "simpo": SweepRange(
        {"beta": (2.0, 2.5), "gamma_beta_ratio": (0.15, 0.25, 0.5, 0.8)}, f"{SIMPO}, γ from 0.3 to 1.6"
    ),
    "orpo": SweepRange({"odds_weight": (0.1, 0.5, 1.0, 2.0)}, SIMPO),
    "slic": SweepRange({"delta": (0.1, 0.5, 1.0, 2.0), "nll_weight": (0.1, 0.5, 1.0, 10.0)}, SIMPO),
    "alphapo": SweepRange({"alpha": (-0.25, 0.1, 0.25), "beta": (2.5, 10.0)}, OURS),
    "rainbowpo": SweepRange({"beta": (5.0, 10.0, 20.0), "alpha": (0.1, 0.25)}, OURS),
    "cal_dpo": SweepRange({"beta": (0.001, 0.002, 0.005, 0.01)}, OURS),
    "sppo": SweepRange({"beta": (0.0005, 0.001, 0.002, 0.005)}, OURS),
    "dpop": SweepRange({"beta": (0.1, 0.3), "positive_weight": (5.0, 50.0)}, OURS),
    "tdpo2": SweepRange({"beta": (0.05, 0.1, 0.2), "alpha": (0.3, 0.5, 0.7)}, OURS),
    "odpo": SweepRange({"beta": (0.05, 0.1, 0.2), "alpha": (0.5, 1.0)}, OURS),
    "rebel": SweepRange({"eta": (0.3, 1.0, 3.0)}, OURS),
    "dno": SweepRange({"eta": (0.03, 0.1, 0.3)}, OURS),
    "rso": SweepRange({"beta": (0.05, 0.1, 0.5), "delta": (1.0,)}, OURS),
    "exo": SweepRange({"beta": (0.1, 0.3, 0.5)}, OURS),
    "sft": SweepRange({}, OURS),
    "reward_model": SweepRange({"centering": (0.0, 0.01)}, OURS),
    **dict.fromkeys(("reinforce", "rloo", "reinforce_pp", "ppo"), SweepRange({"beta": (0.01, 0.03, 0.1)}, OURS)),
    **dict.fromkeys(("grpo", "dr_grpo"), SweepRange({"beta": (0.0, 0.01, 0.04), "clip": (0.2,)}, OURS)),
    "dapo": SweepRange({"clip_high": (0.2, 0.28, 0.4)}, OURS),
    "gspo": SweepRange({"clip_high": (2e-4, 4e-4, 1e-3)}, OURS),
    "cispo": SweepRange({"max_ratio": (2.0, 5.0, 10.0)}, OURS),
    "dppo": SweepRange({"delta": (0.1, 0.2, 0.3)}, OURS),
    "a_star_po": SweepRange({"beta": (0.001, 0.01, 0.1)}, OURS),
    "opd": SweepRange({"discount": (0.0, 1.0)}, OURS),
}
"""Every method of the catalogue."""


def sweep_range(name: str) -> SweepRange:
    """Return the range of a method; of one that the catalogue does not know, a factor of 3 around its first default.

    Raises:
        ConfigError: there is no such method.
    """
    if name in RANGES:
        return RANGES[name]
    for knob in knobs(name):
        default: Any = knob.default
        if not knob.choices and isinstance(default, int | float) and default > 0:
            return SweepRange(
                {knob.name: (default / 3, float(default), 3.0 * default)}, "a factor of 3 around the default"
            )
    return SweepRange({}, "")
