# %% [markdown]
# # From Z to π* to the DPO loss, in a finite world
#
# One prompt with K possible responses. Everything that theory writes as an expectation is a sum of K numbers here, so
# every claim can be checked to many digits. A `FiniteWorld` has five tensors: rewards, lengths, the reference policy,
# and two matrices: how pairs are drawn, and which response of a pair is preferred.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import tiltlm
from tiltlm.worlds import FiniteWorld, fit_policy, kl, population_loss

folder = Path("example-runs/theory")
folder.mkdir(parents=True, exist_ok=True)
reward = torch.tensor([0.0, 0.5, 1.0, 2.0, 3.0])
ref_logits = torch.tensor([1.5, 2.0, 0.0, 0.5, -1.5])  # good responses are rare
world = FiniteWorld.of(reward, lengths=torch.ones(5, dtype=torch.int64), ref_logits=ref_logits)
beta = 0.5

# %% [markdown]
# ## The optimal policy
#
# Which policy has the largest J(π) = E_π[r] − β·KL(π‖π_ref)? The reference, tilted by the reward:
#
# π*(y) = π_ref(y)·exp(r(y)/β) / Z,  Z = Σ_y π_ref(y)·exp(r(y)/β)
#
# Z normalises. For a language model it is a sum over all texts, which nobody can compute. Here it has five terms.

# %%
log_z = torch.logsumexp(world.ref_logps + world.reward / beta, 0)
best = world.ref_logps + world.reward / beta - log_z
assert torch.allclose(best, world.optimum(beta))
print(f"Z = {log_z.exp():.3f};  π* =", [f"{p:.3f}" for p in best.exp().tolist()])

# %% [markdown]
# Why is it the best? Put π* into J and you find J(π) = β·log Z − β·KL(π‖π*). The first part does not depend on π, and
# KL is never negative. So the largest value is β·log Z, and only π* has it. Any other policy shows the gap:

# %%
other = torch.log_softmax(torch.randn(5, generator=torch.Generator().manual_seed(0), dtype=torch.float64), 0)
gap = world.value(best, beta) - world.value(other, beta)
print(f"J(π*) = {world.value(best, beta):.4f} = β log Z = {beta * log_z:.4f};  gap of another policy: {gap:.4f}")
assert abs(gap - beta * float(kl(other, best))) < 1e-9

# %%
figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
for i, (name, policy) in enumerate({"π_ref": world.ref_logps, "β = 1": world.optimum(1.0), "β = 0.5": best}.items()):
    axes.bar(torch.arange(5) + 0.27 * (i - 1), policy.exp(), 0.25, label=name)
axes.set_xticks(range(5), [f"r = {r:g}" for r in reward])
axes.set_title("The smaller β, the further the reward tilts the reference")
axes.legend(frameon=False)
plt.close(figure)
figure.savefig(folder / "tilt.png")

# %% [markdown]
# ## The reward inside the policy
#
# Solve the formula of π* for the reward: r(y) = β·log π*(y)/π_ref(y) + β·log Z. Every policy is the optimal one of
# *some* reward. And a comparison needs only a difference of two rewards, where β·log Z cancels. That is the idea of
# DPO: no reward model, no Z.

# %%
implicit = beta * (best - world.ref_logps)
print("reward  ", world.reward.tolist())
print("implicit", [round(r, 3) for r in implicit.tolist()], "differs by the constant β log Z")
assert torch.allclose(implicit - implicit[0], world.reward - world.reward[0])

# %% [markdown]
# ## The DPO loss
#
# People prefer y_i to y_j with probability σ(r_i − r_j) (Bradley and Terry). The log-likelihood of their comparisons,
# with the implicit reward in place of r, is the DPO loss: −log σ(β·[log π(y_w)/π_ref(y_w) − log π(y_l)/π_ref(y_l)]).
# `population_loss` is its expectation over infinitely many comparisons. π* should minimise it, and it does:

# %%
dpo = tiltlm.build_objective("dpo", beta=beta)
fit = fit_policy(dpo, world)  # Newton's method from the reference
print("minimum at", [f"{p:.6f}" for p in fit.logps.exp().tolist()])
print("π*        ", [f"{p:.6f}" for p in best.exp().tolist()])
assert torch.allclose(fit.logps, best, atol=1e-6)

# %%
steps = torch.linspace(-0.5, 1.5, 81, dtype=torch.float64)
path = [torch.log_softmax(world.ref_logps + s * (best - world.ref_logps), 0) for s in steps]
losses = [float(population_loss(dpo, world, logps)) for logps in path]
figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
axes.plot(steps, losses)
axes.axvline(1, color="grey", linestyle=":")
axes.set_xticks([0, 1], ["π_ref", "π*"])
axes.set_title("DPO loss on the way from the reference through π*")
plt.close(figure)
figure.savefig(folder / "loss.png")

# %% [markdown]
# ## The frontier
#
# Each β has its optimum. Together they are the frontier: no policy has more reward at the same KL, and the slope is β.
# Best-of-n comes close to it without any training, but its KL grows like log n.

# %%
betas = torch.logspace(1.5, -1.5, 2000).tolist()
rewards, kls = world.frontier(betas)
figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
axes.plot(kls, rewards, label="frontier")
policies = {f"best of {n}": world.best_of_n(n) for n in (2, 4, 16)}
for name, knobs in {"dpo": {"beta": beta}, "ipo": {"tau": 0.2}, "sft": {}}.items():
    policies[name] = fit_policy(tiltlm.build_objective(name, **knobs), world).logps
for i, (name, policy) in enumerate(policies.items()):
    spent, gained = world.kl_to_reference(policy), world.expected_reward(policy)
    possible = float(rewards[(kls - spent).abs().argmin()])
    print(f"{name:10}  KL {spent:.3f} nats, reward {gained:.3f}, on the frontier {possible:.3f}")
    axes.plot(spent, gained, "s" if name.startswith("best") else "o", color=f"C{i + 1}", label=name)
axes.set_xlabel("KL from the reference, nats")
axes.set_ylabel("expected reward")
axes.legend(frameon=False)
plt.close(figure)
figure.savefig(folder / "frontier.png")

# %% [markdown]
# `dpo` lies on the frontier, because its optimum is the tilt by the true reward. `ipo` tilts by another function of the
# preferences and is very close to it here. `sft`, which imitates the winners, and best-of-n stay below. `tests/theory`
# checks such statements for every method. Change `reward`, `ref_logits` or `beta` above, and run the cells again.
