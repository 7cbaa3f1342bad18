"""`ResponseLogps`: one log-probability per scored token, as the forward returns it and objectives read it.

Sums, means and log-ratios derive from it. Tokens are float32. Sums over a response are float64: a sum of −1,000 nats
has a float32 spacing of 6e-5, and rewards are differences of such sums. An objective that reads whole next-token
distributions declares further numbers per token, the extras.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tiltlm.core.errors import ConfigError

Extra = Literal["log_collisions", "entropies", "ref_kls", "ref_entropy_shares", "values"]
"""Numbers per scored token beside its log-probability. v runs over the vocabulary V, · is what precedes the token.

- `log_collisions`: log Σ_v π(v|·)² ≤ 0, the log-probability that two draws agree. No gradient.
- `entropies`: H(π(·|·)) = −Σ_v π(v|·) log π(v|·) ≥ 0, in nats. No gradient.
- `ref_kls`: KL(π_ref(·|·) ‖ π(·|·)) ≥ 0, in nats. Its gradient with respect to the policy's logits is π − π_ref. No
  gradient reaches the reference.
- `ref_entropy_shares`: H(π_ref(·|·)) / log V in [0, 1], the entropy as a share of the largest possible. No gradient.
- `values`: what a critic expects as the return from this token on, in units of the reward. Its gradient reaches the
  value head, and the policy only if that shares its states.
"""
OF_REFERENCE: frozenset[Extra] = frozenset({"ref_kls", "ref_entropy_shares"})
"""Extras that read the reference's whole distribution at every token."""
WITH_GRADIENT: frozenset[Extra] = frozenset({"ref_kls", "values"})
"""Extras through which gradient reaches the policy."""


def segment_sum(values: Float[Tensor, " R"], index: Int[Tensor, " R"], num_segments: int) -> Float[Tensor, " S"]:
    """Return the sum of the values of each segment, in float64 (float32 on devices without it). Gradient: ones."""
    wide = values if values.device.type == "mps" else values.double()
    return torch.zeros(num_segments, dtype=wide.dtype, device=wide.device).index_add(0, index, wide)


@final
@dataclass(frozen=True, eq=False)
class ResponseLogps:
    """Natural-log probabilities of N responses with R scored tokens in all, and the extras that were requested."""

    token_logps: Float[Tensor, " R"]
    """Log-probability of each scored token under the policy, in nats (≤ 0). Carries gradient."""
    response_index: Int[Tensor, " R"]
    """Index of the response that each scored token belongs to."""
    num_tokens: Int[Tensor, " N"]
    """Scored tokens of each response, at least 1."""
    ref_token_logps: Float[Tensor, " R"] | None = None
    """Log-probability of each scored token under the reference, in nats; never carries gradient."""
    ref_seq_logps: Float[Tensor, " N"] | None = None
    """Reference log-probability summed over each response, where only sums are known."""
    extras: Mapping[Extra, Float[Tensor, " R"]] = field(default_factory=dict)
    """The requested extras by name."""
    router_loads: Float[Tensor, "L E"] | None = None
    """Mixtures of experts, on request: tokens of all sequences that chose each expert, by router. No gradient."""
    router_probabilities: Float[Tensor, "L E"] | None = None
    """Likewise the sum of the routers' probabilities over the tokens. Carries gradient."""

    @property
    def seq_logps(self) -> Float[Tensor, " N"]:
        """S(y): log-probability of each response, nats per response, float64."""
        return segment_sum(self.token_logps, self.response_index, len(self.num_tokens))

    @property
    def mean_logps(self) -> Float[Tensor, " N"]:
        """A(y) = S(y) / T(y): nats per token, float64."""
        return self.seq_logps / self.num_tokens

    @property
    def log_ratios(self) -> Float[Tensor, " N"]:
        """ρ(y) = S(y) − S_ref(y), nats per response, float64; no gradient to the reference."""
        return self.seq_logps - self.ref_sums.detach()

    @property
    def ref_sums(self) -> Float[Tensor, " N"]:
        """S_ref(y), nats per response, float64.

        Raises:
            ConfigError: There are no reference log-probabilities.
        """
        if self.ref_seq_logps is not None:
            return self.ref_seq_logps
        if self.ref_token_logps is not None:
            return segment_sum(self.ref_token_logps, self.response_index, len(self.num_tokens))
        raise ConfigError(
            "this objective compares the policy with a reference model, and there is none; set reference.name",
            code="needs_reference",
            key="reference.name",
        )

    @property
    def token_log_ratios(self) -> Float[Tensor, " R"]:
        """Log-ratio log π − log π_ref of each scored token, nats, float64; no gradient to the reference.

        Raises:
            ConfigError: The reference's token log-probabilities are not known.
        """
        if self.ref_token_logps is None:
            raise ConfigError(
                "this objective compares policy and reference token by token, and this reference has no values per "
                "token; choose one that computes them: reference.name=initial, base or path",
                code="needs_reference_tokens",
                key="reference.name",
            )
        return self.token_logps.double() - self.ref_token_logps.detach().double()

    @property
    def with_gradient(self) -> dict[str, Float[Tensor, " R"]]:
        """The numbers through which gradient reaches the policy, by name: `token_logps` and some of the extras."""
        found: dict[str, Tensor] = {"token_logps": self.token_logps}
        return found | {name: values for name, values in self.extras.items() if name in WITH_GRADIENT}

    def extra(self, name: Extra) -> Float[Tensor, " R"]:
        """Return one of the extras.

        Raises:
            ConfigError: The objective did not request it from the forward.
        """
        if name not in self.extras:
            raise ConfigError(
                f"this objective reads {name} of every token and does not declare it; add to the objective: "
                f"extras = frozenset({{{name!r}}})",
                code="undeclared_extra",
                key="extras",
            )
        return self.extras[name]

    def with_reference(self, ref_token_logps: Float[Tensor, " R"]) -> "ResponseLogps":
        """Return these responses with the reference's token log-probabilities."""
        return replace(self, ref_token_logps=ref_token_logps.detach(), ref_seq_logps=None)

    def with_reference_sums(self, ref_seq_logps: Float[Tensor, " N"]) -> "ResponseLogps":
        """Return these responses with the reference's sums; objectives that compare single tokens cannot use these."""
        return replace(self, ref_token_logps=None, ref_seq_logps=ref_seq_logps.detach())
