# %% [markdown]
# # Comparing methods
#
# A sweep trains once for every value of a setting and writes one page that compares the runs. All runs share a store
# of reference log-probabilities: what the first run computes, the others read. Here: three methods, then three values
# of β.

# %%
import json
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

import tiltlm

folder = Path("example-runs/comparing")
folder.mkdir(parents=True, exist_ok=True)
world = tiltlm.worlds.TextWorld()

# %% [markdown]
# ## Data
#
# Replies of a lost-property desk, two to a prompt. The one with more courtesies is chosen.

# %%
replies: dict[str, set[str]] = {}
for row in world.corpus(seed=0, size=1200):
    replies.setdefault(row["prompt"], set()).add(row["completion"])
rows = []
for prompt, texts in replies.items():
    ranked = sorted(texts, key=lambda text, prompt=prompt: (world.reward(prompt, text), text))
    if world.reward(prompt, ranked[0]) < world.reward(prompt, ranked[-1]):
        rows.append({"prompt": prompt, "chosen": ranked[-1], "rejected": ranked[0]})
pairs = folder / "pairs.jsonl"
pairs.write_text("".join(json.dumps(row) + "\n" for row in rows[:40]))
print(min(len(rows), 40), "comparisons")

# %% [markdown]
# ## Three methods
#
# What all runs share is the configuration. It may also be a YAML file. The method varies, each with the published
# default of its β. These have different units, so the margins cannot be compared. The accuracies can.

# %%
common = {
    "model": str(world.model_path()),
    "data": {"train": str(pairs), "eval_fraction": 0.4},
    "reference": {"store": str(folder / "store")},
    "training": {"learning_rate": 5e-4, "num_epochs": 5, "batch_size": 8},
    "evaluation": {"num_prompts": 4, "num_samples": 4, "max_new_tokens": 24},
}
methods = tiltlm.sweep(common, {"objective": ["dpo", "ipo", "simpo"]}, output=folder / "methods", overwrite=True)


# %% [markdown]
# Each run has its full report. We make a small table of two numbers on held-out data, with their intervals: how often
# the chosen response has the higher reward, and how far the policy moved from its reference.


# %%
def table(sweep):
    """Return held-out accuracy and KL of every run."""
    found = []
    for run in sweep.runs:
        accuracy, kl = run.report.held_out.contrast.accuracy.after, run.report.samples.after.kl
        found.append(
            {
                "run": run.name,
                "accuracy": accuracy.estimate,
                "from": accuracy.low,
                "to": accuracy.high,
                "KL, nats": kl.estimate,
            }
        )
    return pd.DataFrame(found).set_index("run")


print(table(methods).round(2))

# %% [markdown]
# With so few held-out comparisons the intervals are wide. If they overlap, the data does not say which method is
# better.
#
# ## The β dial
#
# β is the price of a nat of KL. A smaller one lets the policy move further from its reference. A margin is β times a
# difference of log-ratios, so we divide it by β before we compare.

# %%
dial = tiltlm.sweep({**common, "objective": "dpo"}, {"beta": [0.05, 0.5, 5.0]}, output=folder / "beta", overwrite=True)
print(table(dial).round(2))

# %%
figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
for run, beta in zip(dial.runs, (0.05, 0.5, 5.0), strict=True):
    kl = run.report.samples.after.kl
    axes.plot([beta, beta], [kl.low, kl.high], color="C0")
    axes.plot(beta, kl.estimate, "o", color="C0")
axes.set_xscale("log")
axes.set_xlabel("β")
axes.set_ylabel("KL from the reference, nats")
plt.close(figure)
figure.savefig(folder / "beta.png")

# %% [markdown]
# `comparison.html` in each sweep's folder shows the same with figures, intervals and links to the runs:

# %%
print(methods.path / "comparison.html", dial.path / "comparison.html")
