# %% [markdown]
# # An objective of your own
#
# A method is a reward × a link × a shape of data. DPO is the log-ratio × the logistic link × pairs. We keep the
# reward and the pairs, and write another link.
#
# The logistic link log(1 + e^(−u)) grows without bound. If an annotator confused the two responses of a pair, this
# pair has more influence the better the policy gets. The *Savage loss* σ(−u)² (Masnadi-Shirazi and Vasconcelos 2008)
# is bounded: a pair with a very negative margin has almost no gradient.

# %%
import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import matplotlib.pyplot as plt
import torch

import tiltlm
from tiltlm.links import Logistic
from tiltlm.objectives import Pairwise, register
from tiltlm.rewards import LogRatio
from tiltlm.worlds import FiniteWorld, TextWorld, fit_policy

folder = Path("example-runs/own-objective")
folder.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## The link
#
# A link takes a margin u (reward of the chosen response minus reward of the rejected one) and returns a loss, element
# by element.


# %%
@dataclass(frozen=True)
class Savage:
    """ℓ(u) = σ(−u)²: bounded by 1, so that a wrong label cannot dominate a step."""

    convex: ClassVar[bool] = False

    def __call__(self, margin: torch.Tensor) -> torch.Tensor:
        """Return the loss of each margin."""
        return torch.sigmoid(-margin) ** 2


margins = torch.linspace(-6, 6, 200, dtype=torch.float64, requires_grad=True)
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
for link in (Logistic(), Savage()):
    losses = link(margins)
    (slopes,) = torch.autograd.grad(losses.sum(), margins)
    left.plot(margins.detach(), losses.detach(), label=type(link).__name__)
    right.plot(margins.detach(), -slopes)
left.set_title("loss of a margin")
left.legend(frameon=False)
right.set_title("influence: minus its slope")
plt.close(figure)
figure.savefig(folder / "links.png")

# %% [markdown]
# ## The method
#
# One function, registered under its own name. Its parameters are the settings that a configuration may give. Its
# docstring has three paragraphs: a line "Name: meaning.", the formula, and five sections. It is the only place where
# the method is described.


# %%
@register
def savage_dpo(beta: float = 0.1) -> Pairwise:
    """Savage DPO: DPO with a bounded loss, for data with wrong labels.

    ℓ = σ(−β [ ρ_w − ρ_l ])²,  ρ = log π/π_ref

    Source: Masnadi-Shirazi and Vasconcelos 2008 for the loss, with 2u in place of u; the method is an example.
    Units: β per nat of the whole response.
    When: some labels are wrong.
    Differs: it is in no library.
    Fails: a policy that starts far on the wrong side hardly moves.
    """
    return Pairwise(LogRatio(beta), Savage())


print(tiltlm.describe_objective("savage_dpo"))

# %% [markdown]
# ## A check against theory
#
# What does it learn from infinitely many comparisons? If winners are drawn with probability p = σ(r_w − r_l), the
# loss p·ℓ(u) + (1−p)·ℓ(−u) of a pair is smallest where σ(u) = p. That is the margin of DPO. So both methods have the
# same optimum, π* ∝ π_ref·exp(r/β). In a finite world this can be checked to many digits:

# %%
world = FiniteWorld.of(
    reward=torch.tensor([0.0, 0.5, 1.0, 2.0]),
    lengths=torch.ones(4, dtype=torch.int64),
    ref_logits=torch.tensor([1.0, 0.5, 0.0, -0.5]),
)
found = fit_policy(tiltlm.build_objective("savage_dpo", beta=0.5), world)
print("it learns", [f"{p:.5f}" for p in found.logps.exp().tolist()])
print("π* is    ", [f"{p:.5f}" for p in world.optimum(0.5).exp().tolist()])
assert torch.allclose(found.logps, world.optimum(0.5), atol=1e-5)

# %% [markdown]
# ## Training
#
# It is now a method like any other: for Python calls, for configurations, and in weighted sums. We train it on
# comparisons of which every fifth is wrong.

# %%
text_world = TextWorld()
rows = []
for reply in text_world.corpus(seed=0, size=1200):
    prompt, text = reply["prompt"], reply["completion"]
    rows.append((text_world.reward(prompt, text), prompt, text))
best_of = {prompt: text for _, prompt, text in sorted(rows)}  # the last, with the highest reward
worst_of = {prompt: text for _, prompt, text in sorted(rows, reverse=True)}
comparisons = []
for i, prompt in enumerate(p for p in best_of if best_of[p] != worst_of[p]):
    pair = [best_of[prompt], worst_of[prompt]]
    chosen, rejected = pair if i % 5 else reversed(pair)
    comparisons.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
data = folder / "pairs.jsonl"
data.write_text("".join(json.dumps(row) + "\n" for row in comparisons[:40]))

run = tiltlm.train(
    model=text_world.model_path(),
    data=data,
    objective="savage_dpo",
    beta=0.5,
    learning_rate=5e-4,
    num_epochs=2,
    batch_size=8,
    eval_fraction=0.25,
    output=folder / "run",
    overwrite=True,
    **{"evaluation.num_prompts": 0},
)
print(run)

# %% [markdown]
# Its loss starts at σ(0)² = ¼, where the policy equals its reference.

# %%
run.plot()

# %% [markdown]
# How to add a method to the package itself, with its row in the test battery, is in docs/extending.md. A reward of
# your own works in the same way.
