"""What the forward returns and every objective reads: one log-probability per scored token.

Sums, means and log-ratios derive from it. Tokens are float32; sums over a response are float64, because a sum of
−1,000 nats has a float32 spacing of 6e-5 and rewards are differences of such sums.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tiltlm.core.errors import ConfigError


def segment_sum(values: Float[Tensor, " R"], index: Int[Tensor, " R"], num_segments: int) -> Float[Tensor, " S"]:
    """Sum of the values of each segment, in float64 (float32 on devices without it). Gradient: ones."""
    wide = values if values.device.type == "mps" else values.double()
    return torch.zeros(num_segments, dtype=wide.dtype, device=wide.device).index_add(0, index, wide)


@dataclass(frozen=True, eq=False)
class ResponseLogps:
    """Natural-log probabilities of N responses with R scored tokens in all. Gradient flows through `token_logps`."""

    token_logps: Float[Tensor, " R"]
    """Log-probability of each scored token under the policy, in nats (≤ 0)."""
    response: Int[Tensor, " R"]
    """Which response each scored token belongs to."""
    num_tokens: Int[Tensor, " N"]
    """Scored tokens of each response, at least 1."""
    ref_token_logps: Float[Tensor, " R"] | None = None
    """The same under the reference; never carries gradient."""
    ref_seq_logps: Float[Tensor, " N"] | None = None
    """Reference log-probability summed over each response, where only sums are known or to spare summing twice."""

    @property
    def seq_logps(self) -> Float[Tensor, " N"]:
        """S(y): log-probability of each response, nats per response, float64."""
        return segment_sum(self.token_logps, self.response, len(self.num_tokens))

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
            return segment_sum(self.ref_token_logps, self.response, len(self.num_tokens))
        raise ConfigError("this objective compares the policy with a reference, and none was given; name one")

    def with_reference(self, ref_token_logps: Float[Tensor, " R"]) -> "ResponseLogps":
        """The same responses with the reference's token log-probabilities beside them."""
        return replace(self, ref_token_logps=ref_token_logps.detach(), ref_seq_logps=None)

    def with_reference_sums(self, ref_seq_logps: Float[Tensor, " N"]) -> "ResponseLogps":
        """The same responses with the reference's sums beside them: token-level objectives cannot use these."""
        return replace(self, ref_token_logps=None, ref_seq_logps=ref_seq_logps.detach())
