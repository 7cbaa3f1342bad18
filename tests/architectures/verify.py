"""Check of one architecture: the layout that the self-check chooses, and whether that layout is correct.

    python tests/architectures/verify.py MODEL_TYPE ...

prints a line of JSON for each. The layout is checked by other code and other examples than the self-check's: forwards
of the model's own class, one per sequence, no padding. Values and the gradient of every parameter are compared. Weights
are much larger than fresh ones: with small weights, errors are small too. The layout is chosen on a model with the long
windows and chunks of its class, which do not change short examples. It must also be correct where they are short.
"""

import copy
import json
import sys
import warnings
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
import transformers
from tiny import REACH, VOCABULARY, tiny_config
from torch import Tensor

from tiltlm.core.errors import ModelError
from tiltlm.core.example import Response, token_ids
from tiltlm.core.forest import Tree, pack_trees
from tiltlm.logprobs import Choice, PolicyModule, choose_layout

LARGEST = 50_000_000
"""More parameters than this are not built."""
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3}
"""Largest deviation: of log-probabilities in nats, of a parameter's gradient relative to its largest entry."""
FAINT = 1e-2
"""Errors are relative to at least this share of the largest gradient of all parameters, because of rounding."""


class TooLarge(Exception):
    """The model is too large to be built."""


@dataclass
class Record:
    """The result for one architecture."""

    model_type: str
    name: str = ""
    """The class that transformers builds."""
    route: str = ""
    """shared, packed, padded; refused; wrong; skipped; unbuildable."""
    head: str = ""
    reason: str = ""
    """Why the model was refused, not built, or wrong."""
    refused: dict[str, str] = field(default_factory=dict)
    """Faster layouts and why they were refused."""
    num_parameters: int = 0
    dtype: str = ""
    """The dtype in which layouts were compared."""
    error: float | None = None
    """Largest deviation on the self-check's own examples."""
    value_error: float | None = None
    gradient_error: float | None = None


def examine(model_type: str) -> Record:
    """Build the model, choose its layout, and compare.

    Errors of transformers and refusals are part of the record. Any other error of the choice is not caught and ends the
    process.
    """
    record = Record(model_type)
    try:
        far, near = (build(model_type, near, record) for near in (False, True))
    except TooLarge as refusal:
        record.route, record.reason = "skipped", str(refusal)
        return record
    except Exception as failure:
        record.route, record.reason = "unbuildable", summary(failure)
        return record
    try:
        choice = choose_layout(far)
    except ModelError as refusal:
        record.route, record.reason = "refused", summary(refusal)
        return record
    record.route, record.head = choice.layout, choice.head.route if choice.head else ""
    record.error, record.refused = choice.max_error, {name: str(why) for name, why in choice.refused}
    try:
        compare(near, choice, record)
    except Exception as failure:
        record.route, record.reason = "wrong", summary(failure)
    return record


def summary(failure: Exception) -> str:
    """Return the type and the first two lines of an error."""
    lines = [line.strip() for line in str(failure).splitlines() if line.strip()]
    return f"{type(failure).__name__}: {' '.join(lines[:2])}"


def build(model_type: str, near: bool, record: Record) -> Any:
    """Build a model with large random weights.

    Raises:
        TooLarge: it has more than `LARGEST` parameters, counted before anything is allocated.
    """
    config = tiny_config(model_type, near)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(copy.deepcopy(config))
    record.name, record.num_parameters = type(model).__name__, sum(p.numel() for p in model.parameters())
    if record.num_parameters > LARGEST:
        raise TooLarge(f"{record.num_parameters / 1e6:.0f} M parameters at its smallest")
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            width = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.1
            parameter.add_(width * torch.randn_like(parameter))
    return model


def compare(model: Any, choice: Choice, record: Record) -> None:
    """Compare the chosen layout with separate forwards, in float64 where the class can run in it."""
    trees = ragged_trees()
    wide = copy.deepcopy(model).double()
    if getattr(wide.config, "_experts_implementation", None) is not None:
        wide.set_experts_implementation("eager")
    try:
        expected = separate(wide, trees)
    except Exception:
        wide = model
        expected = separate(wide, trees)
    record.dtype = str(wide.dtype).removeprefix("torch.")
    parameters = [p for p in wide.parameters() if p.requires_grad]
    weights = torch.randn(len(expected), generator=torch.Generator().manual_seed(5)).to(expected)
    wanted = torch.autograd.grad((expected * weights).sum(), parameters, allow_unused=True)
    acausal = leak(wide, trees[2])
    found = PolicyModule(wide, choice.layout, head=choice.head, trims=choice.trims)(pack_trees(trees)).token_logps
    given = torch.autograd.grad((found * weights.to(found)).sum(), parameters, allow_unused=True)
    record.value_error = float((found.detach() - expected.detach()).abs().max())
    record.gradient_error = gradient_error(wanted, given)
    tolerance = TOLERANCE[wide.dtype]
    if acausal > tolerance:
        record.route, record.reason = "wrong", f"{choice.layout}: later tokens move earlier ones by {acausal:.0e}"
    if not max(record.value_error, record.gradient_error) <= tolerance:
        errors = f"values off by {record.value_error:.0e}, gradients by {record.gradient_error:.0e}"
        record.route, record.reason = "wrong", f"{choice.layout}: {errors}"


def ragged_trees() -> list[Tree]:
    """Return trees of different lengths: responses of one token, and prompts and responses longer than the reach.

    No sequence has a token twice: where keys are selected by score, equal tokens have equal scores, and rounding
    decides.
    """
    rng = np.random.default_rng(11)
    lengths = [(2, (3,)), (11, (6, 1, 14)), (2 * REACH + 5, (4, 2 * REACH + 1)), (1, (1, 2)), (4, (1,))]
    trees = []
    for prompt, responses in lengths:
        order = rng.permutation(np.arange(3, VOCABULARY))
        rest = [Response(token_ids(rng.choice(order[prompt:], r, replace=False))) for r in responses]
        trees.append(Tree(token_ids(order[:prompt]), tuple(rest)))
    return trees


def separate(model: Any, trees: list[Tree]) -> Tensor:
    """Return the log-probability of every response token, with one forward of the model's own class per sequence."""
    values = []
    for tree in trees:
        for response in tree.responses:
            ids = torch.tensor(np.concatenate([tree.prompt_ids, response.token_ids])).long()[None]
            logps = model(input_ids=ids[:, :-1], use_cache=False).logits[0].log_softmax(-1)
            values += [logps[t - 1, ids[0, t]] for t in range(len(tree.prompt_ids), ids.shape[1])]
    return torch.stack(values)


@torch.no_grad()
def leak(model: Any, tree: Tree) -> float:
    """Return how much the end of a response changes the log-probabilities before it; 0 for a causal model."""
    whole = tree.responses[-1].token_ids
    half = len(whole) // 2
    long, short = (separate(model, [Tree(tree.prompt_ids, (Response(ids),))]) for ids in (whole, whole[:half]))
    return float((long[:half] - short).abs().max())


def gradient_error(wanted: tuple[Tensor | None, ...], given: tuple[Tensor | None, ...]) -> float:
    """Return the largest error of any parameter's gradient, relative to the largest entry of that gradient."""
    zero = torch.zeros(())
    pairs = [(zero if w is None else w, zero if g is None else g) for w, g in zip(wanted, given, strict=True)]
    faint = FAINT * max(float(w.abs().max()) for w, _ in pairs)
    errors = [float((g - w).abs().max()) / max(float(w.abs().max()), faint) for w, g in pairs if w.numel()]
    return float("inf") if any(e != e for e in errors) else max(errors)


def quiet() -> None:
    """Use one thread, and silence warnings of transformers about unusual configurations."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")


def main(model_types: list[str]) -> None:
    """Print a line of JSON for each model type."""
    quiet()
    for model_type in model_types:
        print(json.dumps(asdict(examine(model_type))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
