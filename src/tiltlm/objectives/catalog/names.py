"""What other libraries call the methods here: `trl:hinge` is `rso`. Another name is never another formula unsaid.

An entry holds the name here, the knobs that the other library's defaults come to where they differ from the defaults
here, and what else differs. Knobs are always called as here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tiltlm.core import ConfigError
from tiltlm.objectives.catalog.registry import CATALOG, constructor, nearest


@dataclass(frozen=True)
class Resolved:
    """What a name stands for."""

    name: str
    """In the catalogue here."""
    knobs: Mapping[str, Any]
    """Settings that the name implies; given ones go before them."""
    notes: tuple[str, ...]
    """What to tell whoever used the name."""


@dataclass(frozen=True)
class Peer:
    """A method of another library."""

    name: str
    knobs: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


BETA = {"beta": 0.1}
NLL = "its NLL is averaged over the batch's tokens there, over each response's here"

PEERS: dict[str, dict[str, Peer]] = {
    "trl": {
        "sigmoid": Peer("dpo"),
        "sigmoid_norm": Peer("ln_dpo", note="β is per token, so that TRL's default 0.1 is no guide"),
        "hinge": Peer("rso", {**BETA, "delta": 1.0}, "the hinge with a reference; SLiC's has none, slic"),
        "ipo": Peer("ipo_mean", note="TRL's beta is tau here; summed over tokens, as the paper prints it, it is ipo"),
        "robust": Peer("robust_dpo", note="label_smoothing is 0.1 unless given, where TRL's default is 0"),
        "exo_pair": Peer("exo", {**BETA, "label_smoothing": 0.001}),
        "nca_pair": Peer("nca", BETA),
        "bco_pair": Peer("bco_pair", BETA, "without BCO's shift δ, as in TRL since 0.29"),
        "sppo_hard": Peer("sppo", BETA, "TRL's loss is twice this one, having no ½; the authors' β is 0.001"),
        "aot": Peer("aot", BETA, "sorted over the whole step here, over the batch there"),
        "aot_pair": Peer("aot", BETA, "what TRL called aot_pair before 0.29 and calls aot since"),
        "aot_unpaired": Peer(
            "aot_unpaired", BETA, "pairs are split into labelled responses here; the loss is the same"
        ),
        "apo_zero": Peer("apo_zero"),
        "apo_down": Peer("apo_down"),
        "discopop": Peer("discopop", {**BETA, "tau": 0.05}),
        "sft": Peer("sft", note="divided by the tokens of the whole step here, of the batch there"),
        "kto": Peer("kto", note="the baseline is of the whole step here, of each device's batch there"),
        "bco": Peer("bco", BETA, "δ is the mean of both classes' means here, one mean over all there"),
        "orpo": Peer(
            "orpo", note="TRL's beta is odds_weight here; its NLL includes the prompt, here only the response"
        ),
        "cpo": Peer("cpo", note=f"TRL's cpo_alpha is nll_weight here; {NLL}"),
        "simpo": Peer(
            "simpo",
            note="beta and gamma_beta_ratio are the authors' unless given; TRL's are beta 0.1 and simpo_gamma 0.5, "
            "which is γ itself: a ratio of 5; and it adds an NLL term unless cpo_alpha is 0",
        ),
        "alphapo": Peer(
            "alphapo",
            note="gamma_beta_ratio is γ/β, TRL's simpo_gamma γ itself; TRL adds an NLL term unless cpo_alpha is 0",
        ),
    },
    "llamafactory": {
        "sigmoid": Peer("dpo"),
        "hinge": Peer("rso", {**BETA, "delta": 1.0}, "the hinge with a reference; SLiC's has none, slic"),
        "ipo": Peer("ipo_mean", note="pref_beta is tau here; summed over tokens, as the paper prints it, it is ipo"),
        "orpo": Peer("orpo", note="pref_beta is odds_weight here"),
        "simpo": Peer(
            "simpo",
            note="beta and gamma_beta_ratio are the authors' unless given; LLaMA-Factory's are pref_beta 0.1 and "
            "simpo_gamma 0.5, which is γ itself: a ratio of 5",
        ),
    },
    "halos": {
        "dpo": Peer("dpo"),
        "cdpo": Peer("cdpo", {"label_smoothing": 0.2}),
        "ipo": Peer("ipo_mean", note="averaged over tokens; summed, as the paper prints it, it is ipo"),
        "kto": Peer("kto", note="the baseline is over all mismatched pairs here, over non-zero log-ratios there"),
        "simpo": Peer("simpo", {"beta": 10.0, "gamma_beta_ratio": 0.3}),
        "slic": Peer("slic", {"delta": 1.0, "nll_weight": 0.1}, "the NLL is summed over each response here"),
    },
    "openrlhf": {
        "dpo": Peer("dpo"),
        "ipo": Peer("ipo", note="summed over tokens there too; its beta is tau here"),
    },
}
"""Library → its name of a method → what that is here."""

OTHER_NAMES = {"rdpo": "robust_dpo", "dpo_norm": "ln_dpo", "biased_nca": "bco_pair"}
"""Names in use that belong to no one library."""

OWN_NOTES = {"ipo": "ipo: log-ratios are summed over the response; TRL's ipo, which averages them, is ipo_mean here"}
"""Names here that mean something else elsewhere."""

NO_METHOD = {
    "r_dpo": "it has been used for two methods: length_dpo (Park et al. 2024) and robust_dpo (Chowdhury et al. 2024)",
    "kto_pair": "it has left TRL; use kto, which splits pairs into labelled responses, or bco_pair",
    "apo_zero_unpaired": "give its parts: {data: labels, reward: {name: log_ratio, beta: 0.1}, link: sigmoid}",
}
"""Names that stand for nothing here, and why."""

RATIO = "gamma_beta_ratio, which is γ/β: divide it by beta"

FOREIGN_KNOBS: dict[str, dict[str, str]] = {
    "beta": {"ipo": "tau", "ipo_mean": "tau", "orpo": "odds_weight", "rebel": "eta", "dno": "eta"},
    "pref_beta": {"dpo": "beta", "rso": "beta", "ipo_mean": "tau", "orpo": "odds_weight", "simpo": "beta"},
    "simpo_gamma": dict.fromkeys(("simpo", "alphapo"), RATIO),
    "gamma": dict.fromkeys(("simpo", "alphapo"), RATIO),
    "cpo_alpha": {"cpo": "nll_weight"},
    "discopop_tau": {"discopop": "tau"},
    "ld_alpha": {"ld_dpo": "alpha"},
    "rpo_alpha": {"dpo_nll": "nll_weight"},
    "f_divergence_type": {"f_dpo": "divergence"},
    "f_alpha_divergence_coef": {"f_dpo": "alpha, which is 1 minus it"},
}
"""Knob elsewhere → method here → its knob here."""


def resolve_name(name: Any) -> Resolved:
    """The method that a name stands for: one here, `library:name`, or another library's name that is free here.

    Raises:
        ConfigError: none; the message says what comes near.
    """
    if not isinstance(name, str):
        raise ConfigError(f"name is {name!r}; the name of a method is wanted", code="wrong_type", key="name")
    if name in CATALOG:
        return Resolved(name, {}, (OWN_NOTES[name],) if name in OWN_NOTES else ())
    library, colon, theirs = name.rpartition(":")
    if theirs in NO_METHOD:
        raise ConfigError(f"name: {name!r} is no method here: {NO_METHOD[theirs]}", code="no_method", key="name")
    if colon:
        return _of(library, theirs, name)
    if name in OTHER_NAMES:
        return Resolved(OTHER_NAMES[name], {}, (f"{name} is {OTHER_NAMES[name]} here",))
    if name in PEERS["trl"]:
        return _of("trl", name, name)
    constructor(name)  # tells what is near
    raise AssertionError(f"{name} is in the catalogue after all")


def _of(library: str, theirs: str, written: str) -> Resolved:
    if library not in PEERS:
        raise ConfigError(
            f"name: no library {library!r}{nearest(library, PEERS)} Known: {', '.join(PEERS)}",
            code="unknown_name",
            key="name",
        )
    known = PEERS[library]
    if theirs not in known:
        raise ConfigError(
            f"name: no {theirs!r} of {library}{nearest(theirs, known)} Known: {', '.join(known)}",
            code="unknown_name",
            key="name",
        )
    peer = known[theirs]
    implied = ", ".join(f"{key} {value:g}" for key, value in peer.knobs.items())
    note = f"{written} is {peer.name} here" + (f", with {implied} unless given" if implied else "")
    return Resolved(peer.name, peer.knobs, (note + (f"; {peer.note}" if peer.note else ""),))


def refuse_foreign(name: str, settings: Mapping[str, Any]) -> None:
    """Refuse knobs that are called otherwise here, saying how.

    Args:
        name: of a method here.
        settings: its knobs as given.
    """
    for key in settings:
        if here := FOREIGN_KNOBS.get(key, {}).get(name):
            raise ConfigError(f"{key}: {name} does not use it; it is called {here}", code="renamed_setting", key=key)
