# %% [markdown]
# # Quickstart in Python
#
# We align a tiny language model with a few dozen comparisons and ask whether it helped. Everything is offline and takes
# about a minute. The model answers for a lost-property desk. It comes with tiltlm, in `tiltlm.worlds.TextWorld`.

# %%
import json
from pathlib import Path

import tiltlm

folder = Path("example-runs/quickstart")
folder.mkdir(parents=True, exist_ok=True)
world = tiltlm.worlds.TextWorld()

# %% [markdown]
# ## Sample
#
# `load_policy` takes a folder or a name on the Hugging Face Hub. `sample` draws n responses to each prompt. The result
# has them as texts, and as rows with token ids and log-probabilities.

# %%
policy = tiltlm.load_policy(world.model_path())
prompts = world.prompts("train")[:40]
responses = tiltlm.sample(policy, prompts, n=4, max_new_tokens=32).texts
print(prompts[0], *responses[0], sep="\n")

# %% [markdown]
# ## Compare
#
# Usually people say which response they prefer. In this world a known reward says it: it counts the courtesies of a
# reply, from 0 to 4. The best and the worst reply to each prompt become one comparison.

# %%
rows = []
for prompt, texts in zip(prompts, responses, strict=True):
    ranked = sorted(texts, key=lambda text, prompt=prompt: world.reward(prompt, text))
    if world.reward(prompt, ranked[0]) < world.reward(prompt, ranked[-1]):
        rows.append({"prompt": prompt, "chosen": ranked[-1], "rejected": ranked[0]})

pairs = folder / "pairs.jsonl"
pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
print(len(rows), "comparisons, such as", json.dumps(rows[0], indent=2))

# %% [markdown]
# `preview` shows a row as the model sees it: its tokens, and which of them count.

# %%
(row,) = tiltlm.preview(model=world.model_path(), data=pairs, rows=1)
for title, response in zip(row.titles, row.responses, strict=True):
    print(title, [(piece.text, piece.role) for piece in response])

# %% [markdown]
# ## Train
#
# Every setting has the same name in Python, in a YAML file and on the command line. A quarter of the prompts is held
# out: training never sees them, and only they can say whether it helped.

# %%
run = tiltlm.train(
    model=world.model_path(),
    data=pairs,
    objective="dpo",
    beta=0.3,
    learning_rate=5e-4,
    num_epochs=3,
    batch_size=8,
    eval_fraction=0.25,
    output=folder / "run",
    overwrite=True,
    **{"training.eval_every": 4, "evaluation.num_prompts": 2, "evaluation.max_new_tokens": 32},
)
print(run)

# %% [markdown]
# ## Look at the result
#
# `run.report` holds every number of `report.html` in the run's folder. `run.metrics` is a table with a row per record.

# %%
evaluated = run.metrics.dropna(subset="eval_loss")
print(evaluated[["step", "eval_loss", "eval_rewards/margins", "eval_rewards/accuracies"]].to_string(index=False))

# %% [markdown]
# DPO starts at a loss of log 2 and a margin of 0, because the policy still equals its reference. If the curves of
# training and held-out data separate, the policy memorises.

# %%
run.plot()

# %% [markdown]
# ## Compare samples
#
# The trained model is an ordinary Hugging Face folder. Here the reward is known, so we can measure what usually
# nobody can.

# %%
trained = tiltlm.load_policy(run.path / "model")
new_prompts = world.prompts("heldout")[:16]
for name, model in {"before": policy, "after": trained}.items():
    drawn = tiltlm.sample(model, new_prompts, n=4, seed=1, max_new_tokens=32).texts
    rewards = [world.reward(p, text) for p, texts in zip(new_prompts, drawn, strict=True) for text in texts]
    print(f"{name}: mean reward {sum(rewards) / len(rewards):.2f} of 4;", repr(drawn[0][0]))
