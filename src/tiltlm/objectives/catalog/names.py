"""Names of methods in other libraries: `trl:hinge` is `rso` here. If the formulas differ, a note says so.

An entry has the name here, the knobs that reproduce the other library's defaults if these differ, and a note on other
differences. Knobs have the names used here.
"""

import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tiltlm.core import ConfigError
from tiltlm.core.checks import suggestion
from tiltlm.objectives.catalog.registry import CATALOG, constructor, knobs


@dataclass(frozen=True)
class Resolved:
    """The method that a name stands for."""

    name: str
    """Its name in the catalogue."""
    knobs: Mapping[str, Any]
    """Settings that the name implies; settings given by the user override them."""
    notes: tuple[str, ...]
    """Notes to show to a user of the name."""


@dataclass(frozen=True)
class Peer:
    """A method of another library."""

    name: str
    """Its name in the catalogue."""
    knobs: Mapping[str, float] = field(default_factory=dict)
    """Settings that reproduce the other library's defaults."""
    note: str = ""
    """Other differences."""


BETA = {"beta": 0.1}
NLL = "TRL averages the NLL over the batch's tokens, here it is the mean of each response"

PEERS: dict[str, dict[str, Peer]] = {
    "trl": {
        "sigmoid": Peer("dpo"),
        "sigmoid_norm": Peer("ln_dpo", note="β is per token, so TRL's default 0.1 is not a useful value"),
        "hinge": Peer("rso", {**BETA, "delta": 1.0}, "this hinge has a reference; SLiC's has none and is slic here"),
        "ipo": Peer(
            "ipo_mean",
            note="TRL's beta is tau here; TRL averages over tokens; the paper's loss, summed over tokens, is ipo here",
        ),
        "robust": Peer("robust_dpo", note="label_smoothing is 0.1 by default, in TRL 0"),
        "exo_pair": Peer("exo", {**BETA, "label_smoothing": 0.001}),
        "nca_pair": Peer("nca", BETA),
        "bco_pair": Peer("bco_pair", BETA, "without BCO's shift δ, as in TRL since 0.29"),
        "sppo_hard": Peer("sppo", BETA, "TRL's loss has no factor ½, so it is twice this one; the authors' β is 0.001"),
        "aot": Peer("aot", BETA, "here the whole step is sorted, in TRL the batch"),
        "aot_pair": Peer("aot", BETA, "TRL called this loss aot_pair before 0.29, and aot since"),
        "aot_unpaired": Peer(
            "aot_unpaired", BETA, "here pairs are split into unpaired responses; the loss is the same"
        ),
        "apo_zero": Peer("apo_zero"),
        "apo_down": Peer("apo_down"),
        "discopop": Peer("discopop", {**BETA, "tau": 0.05}),
        "sft": Peer(
            "sft", note="here the loss is divided by the tokens of the whole step, in TRL by those of the batch"
        ),
        "kto": Peer("kto", note="here the baseline is of the whole step, in TRL of each device's batch"),
        "bco": Peer(
            "bco",
            BETA,
            "here δ is the mean of both classes' means, in TRL one mean over all responses; "
            "TRL 1.16 has no BCO any more",
        ),
        "orpo": Peer("orpo", note="TRL's beta is odds_weight here; TRL's NLL includes the prompt, here it does not"),
        "cpo": Peer("cpo", note=f"TRL's cpo_alpha is nll_weight here; {NLL}"),
        "simpo": Peer(
            "simpo",
            note="by default beta and gamma_beta_ratio are the authors'; TRL's are beta 0.1 and simpo_gamma 0.5, "
            "which is γ itself: a ratio of 5; TRL adds an NLL term unless cpo_alpha is 0",
        ),
        "alphapo": Peer(
            "alphapo",
            note="gamma_beta_ratio is γ/β, TRL's simpo_gamma is γ itself; TRL adds an NLL term unless cpo_alpha is 0",
        ),
    },
    "llamafactory": {
        "sigmoid": Peer("dpo"),
        "hinge": Peer("rso", {**BETA, "delta": 1.0}, "this hinge has a reference; SLiC's has none and is slic here"),
        "ipo": Peer("ipo_mean", note="pref_beta is tau here; the paper's loss, summed over tokens, is ipo here"),
        "orpo": Peer("orpo", note="pref_beta is odds_weight here"),
        "simpo": Peer(
            "simpo",
            note="by default beta and gamma_beta_ratio are the authors'; LLaMA-Factory's are pref_beta 0.1 and "
            "simpo_gamma 0.5, which is γ itself: a ratio of 5",
        ),
    },
    "halos": {
        "dpo": Peer("dpo"),
        "cdpo": Peer("cdpo", {"label_smoothing": 0.2}),
        "ipo": Peer("ipo_mean", note="HALOs averages over tokens; the paper's loss, summed over tokens, is ipo here"),
        "kto": Peer("kto", note="here the baseline is over all mismatched pairs, in HALOs over non-zero log-ratios"),
        "simpo": Peer("simpo", {"beta": 10.0, "gamma_beta_ratio": 0.3}),
        "slic": Peer("slic", {"delta": 1.0, "nll_weight": 0.1}, "here the NLL is summed over each response"),
    },
    "openrlhf": {
        "dpo": Peer("dpo"),
        "ipo": Peer("ipo", note="OpenRLHF sums over tokens too; its beta is tau here"),
    },
}
"""Library → its name of a method → the method here."""

OTHER_NAMES = {"rdpo": "robust_dpo", "dpo_norm": "ln_dpo", "biased_nca": "bco_pair"}
"""Other common names, of no particular library."""

OWN_NOTES = {"ipo": "ipo: log-ratios are summed over the response; TRL's ipo averages them, which is ipo_mean here"}
"""Notes on names that have another meaning in other libraries."""

NO_METHOD = {
    "r_dpo": "two methods have this name: use length_dpo (Park et al. 2024) or robust_dpo (Chowdhury et al. 2024)",
    "kto_pair": "TRL has removed it; use kto, which splits pairs into unpaired responses, or bco_pair",
    **dict.fromkeys(
        (
            "online_dpo",
            "iterative_dpo",
            "online_ipo",
            "nash_md",
            "max_rl",
            "raft",
            "rft",
            "spin",
            "gvpo",
            "xpo",
            "bond",
            "d2po",
        ),
        "it is a way to draw and to judge samples, with a loss that has another name: a preset of `tiltlm loop`",
    ),
    "apo_zero_unpaired": "give its parts: {data: unpaired, reward: {name: log_ratio, beta: 0.1}, link: sigmoid}",
}
"""Names that are not supported, with the alternative."""

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
"""Knob of another library → method here → its knob here."""


def resolve_name(name: Any) -> Resolved:
    """Return the method that a name stands for.

    Args:
        name: A name of the catalogue, `library:name`, or another library's name that is not a name here.

    Raises:
        ConfigError: The name is unknown; the message suggests a similar one.
    """
    if not isinstance(name, str):
        raise ConfigError(f"name is {name!r}; it must be the name of a method", code="wrong_type", key="name")
    if name in CATALOG:
        return Resolved(name, {}, (OWN_NOTES[name],) if name in OWN_NOTES else ())
    library, colon, other_name = name.rpartition(":")
    if other_name in NO_METHOD:
        raise ConfigError(f"name: {name!r} is not supported: {NO_METHOD[other_name]}", code="no_method", key="name")
    if colon:
        return _of_library(library, other_name, name)
    if name in OTHER_NAMES:
        return Resolved(OTHER_NAMES[name], {}, (f"{name} is {OTHER_NAMES[name]} here",))
    if name in PEERS["trl"]:
        return _of_library("trl", name, name)
    constructor(name)  # raises an error that suggests similar names
    raise AssertionError(f"{name} is in the catalogue")


def _of_library(library: str, other_name: str, written: str) -> Resolved:
    """Return the method that a library calls `other_name`; `written` is the name as the user wrote it."""
    if library not in PEERS and "." not in library and find_spec_here(library) is None:
        raise ConfigError(
            f"name: there is no library {library!r}{suggestion(library, PEERS)} Known: {', '.join(PEERS)}; and there "
            "is no module of this name with a method of your own",
            code="unknown_name",
            key="name",
        )
    if library not in PEERS:
        return Resolved(import_method(library, other_name), {}, ())
    known = PEERS[library]
    if other_name not in known:
        raise ConfigError(
            f"name: {library} has no {other_name!r}{suggestion(other_name, known)} Known: {', '.join(known)}",
            code="unknown_name",
            key="name",
        )
    peer = known[other_name]
    implied = ", ".join(f"{key} {value:g}" for key, value in peer.knobs.items())
    note = f"{written} is {peer.name} here" + (f", by default with {implied}" if implied else "")
    return Resolved(peer.name, peer.knobs, (note + (f"; {peer.note}" if peer.note else ""),))


def find_spec_here(module: str) -> Any:
    """Return the spec of a module, also of one in the working folder; None if there is none."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    return importlib.util.find_spec(module)


def import_method(module: str, function: str) -> str:
    """Import a constructor of the user's own, register it, and return its name in the catalogue.

    Args:
        module: The module, installed or in the working folder.
        function: The constructor, or the name under which importing the module registers one.

    Raises:
        ConfigError: It cannot be imported, or a method of tiltlm has its name.
    """
    key = "name"
    try:
        find_spec_here(module.partition(".")[0])
        made = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"name: {module}:{function} cannot be imported: {error}", code="not_importable", key=key
        ) from error
    name = str(getattr(made, "__name__", function))
    if CATALOG.setdefault(name, made) is not made:
        raise ConfigError(
            f"name: {module}:{function}: there is a method {name!r} already; give the function another name",
            code="duplicate",
            key=key,
        )
    try:
        knobs(name)
    except (AssertionError, TypeError, ValueError) as error:
        del CATALOG[name]
        raise ConfigError(
            f"name: {module}:{function} is no constructor of an objective, whose parameters are annotated float, "
            f"float | None or Literal: {error}",
            code="wrong_type",
            key=key,
        ) from error
    return name


def refuse_foreign(name: str, settings: Mapping[str, Any]) -> None:
    """Raise an error if a knob has the name that another library uses; it names the knob here.

    Args:
        name: A method of the catalogue.
        settings: Its knobs as given.

    Raises:
        ConfigError: A knob has another name here.
    """
    for key in settings:
        if here := FOREIGN_KNOBS.get(key, {}).get(name):
            raise ConfigError(
                f"{key}: {name} has no such setting; here it is called {here}", code="renamed_setting", key=key
            )
