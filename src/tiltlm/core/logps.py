"""What the forward returns and every objective reads: one log-probability per scored token.

Sums, means and log-ratios derive from it. Tokens are float32; sums over a response are float64, because a sum of
−1,000 nats has a float32 spacing of 6e-5 and rewards are differences of such sums. Objectives that look at whole
distributions ask for more numbers per token: the extras.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tiltlm.core.errors import ConfigError

Extra = Literal["log_collisions", "entropies", "ref_kls", "ref_entropy_shares"]
"""Numbers per scored token beside its log-probability; the fields of `ResponseLogps` say what they mean."""
OF_REFERENCE: frozenset[Extra] = frozenset({"ref_kls", "ref_entropy_shares"})
"""Extras that read the reference's whole distribution at every token."""
WITH_GRADIENT = ("token_logps", "ref_kls")
"""Fields of `ResponseLogps` through which gradient reaches the policy."""


def segment_sum(values: Float[Tensor, " R"], index: Int[Tensor, " R"], num_segments: int) -> Float[Tensor, " S"]:
    """Sum of the values of each segment, in float64 (float32 on devices without it). Gradient: ones."""
    wide = values if values.device.type == "mps" else values.double()
    return torch.zeros(num_segments, dtype=wide.dtype, device=wide.device).index_add(0, index, wide)


@dataclass(frozen=True, eq=False)
class ResponseLogps:
    """Natural-log probabilities of N responses with R scored tokens in all, and extras where they were asked for.

    Gradient flows through `token_logps` and `ref_kls`.
    """

    token_logps: Float[Tensor, " R"]
    """Log-probability of each scored token under the policy, in nats (≤ 0)."""
    response_index: Int[Tensor, " R"]
    """Which response each scored token belongs to."""
    num_tokens: Int[Tensor, " N"]
    """Scored tokens of each response, at least 1."""
    ref_token_logps: Float[Tensor, " R"] | None = None
    """The same under the reference; never carries gradient."""
    ref_seq_logps: Float[Tensor, " N"] | None = None
    """Reference log-probability summed over each response, where only sums are known or to spare summing twice."""
    log_collisions: Float[Tensor, " R"] | None = None
    """log Σ_v π(v|·)² over the vocabulary v, ≤ 0: the log-probability that two draws agree. No gradient."""
    entropies: Float[Tensor, " R"] | None = None
    """H(π(·|·)) = −Σ_v π(v|·) log π(v|·), in nats, ≥ 0. No gradient."""
    ref_kls: Float[Tensor, " R"] | None = None
    """KL(π_ref(·|·) ‖ π(·|·)) over the whole vocabulary, in nats, ≥ 0. By the policy's logits its gradient is
    π − π_ref; none reaches the reference."""
    ref_entropy_shares: Float[Tensor, " R"] | None = None
    """H(π_ref(·|·)) / log V: the entropy as a share of the largest possible, in [0, 1]. No gradient."""
    router_loads: Float[Tensor, "L E"] | None = None
    """Of a mixture of experts, where asked for: how many tokens of all sequences chose each expert, by router. No
    gradient."""
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
            ConfigError: no reference log-probabilities are here.
        """
        if self.ref_seq_logps is not None:
            return self.ref_seq_logps
        if self.ref_token_logps is not None:
            return segment_sum(self.ref_token_logps, self.response_index, len(self.num_tokens))
        raise ConfigError(
            "this objective compares the policy with a reference, and none was given; name one",
            code="needs_reference",
            key="reference.name",
        )

    def extra(self, name: Extra) -> Float[Tensor, " R"]:
        """One of the extras.

        Raises:
            ConfigError: the forward was not asked for it.
        """
        values: Tensor | None = getattr(self, name)
        if values is None:
            raise ConfigError(
                f"this objective reads {name} of every token, and the forward was not asked for it; declare it in the "
                f"objective: extras = frozenset({{{name!r}}})",
                code="undeclared_extra",
                key="extras",
            )
        return values

    @property
    def token_log_ratios(self) -> Float[Tensor, " R"]:
        """log π − log π_ref of each scored token, nats, float64; no gradient to the reference.

        Raises:
            ConfigError: only sums of the reference are known, or nothing.
        """
        if self.ref_token_logps is None:
            raise ConfigError(
                "this objective compares policy and reference token by token, and the reference gives no tokens; name "
                "one that computes them: reference.name=initial, base or path",
                code="needs_reference_tokens",
                key="reference.name",
            )
        return self.token_logps.double() - self.ref_token_logps.detach().double()

    def with_reference(self, ref_token_logps: Float[Tensor, " R"]) -> "ResponseLogps":
        """The same responses with the reference's token log-probabilities beside them."""
        return replace(self, ref_token_logps=ref_token_logps.detach(), ref_seq_logps=None)

    def with_reference_sums(self, ref_seq_logps: Float[Tensor, " N"]) -> "ResponseLogps":
        """The same responses with the reference's sums beside them: token-level objectives cannot use these."""
        return replace(self, ref_token_logps=None, ref_seq_logps=ref_seq_logps.detach())
