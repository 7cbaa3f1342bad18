"""Logistic regression on soft labels for many resamples at once: the fit behind length control and strengths."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tiltlm.core.errors import NumericsError

Floats = NDArray[np.float64]

TOLERANCE = 1e-9
"""Largest entry of the gradient at the end, per unit of weight. A fit that stops early orders systems wrongly."""
_LONGEST_STEP = 2.0
_MAX_STEPS = 200


def fit_logistic(
    design: ArrayLike, advantages: ArrayLike, weights: ArrayLike, ridge: ArrayLike, start: ArrayLike = 0.0
) -> Floats:
    """Return the coefficients θ that minimise Σ w · cross-entropy(½ + a, σ(Xθ)) + ½ Σ ridge · θ², for each draw.

    Newton's method. Residuals are computed as a − ½·tanh(Xθ/2), so that a and −a with −X give exactly opposite numbers.

    Args:
        design: [R, K] one design for all draws, or [D, R, K].
        advantages: [R] or [D, R] y − ½ of each row, y the soft label.
        weights: [D, R] weight of each row in each draw.
        ridge: [K] strength of the penalty on each coefficient, above 0.
        start: [K] coefficients to begin with; near the result they save steps.

    Returns:
        [D, K] coefficients.

    Raises:
        NumericsError: a fit did not converge.
    """
    x, a, w = (np.asarray(values, dtype=np.float64) for values in (design, advantages, weights))
    penalty = np.asarray(ridge, dtype=np.float64)
    theta = np.zeros((len(w), x.shape[-1])) + np.asarray(start, dtype=np.float64)
    scale = np.maximum(w.sum(1), 1.0)[:, None]
    for _ in range(_MAX_STEPS):
        fitted = 0.5 * np.tanh(_times(x, theta) / 2)
        residual = w * (a - fitted)
        gradient = _transposed_times(x, residual) - penalty * theta
        if np.all(np.abs(gradient) <= TOLERANCE * scale):
            return theta
        curvature = w * (0.25 - fitted * fitted)
        hessian = _gram(x, curvature) + np.diag(penalty)
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        longest = np.abs(step).max(1, keepdims=True)
        theta = theta + step * np.minimum(1.0, _LONGEST_STEP / np.maximum(longest, 1e-300))
    raise NumericsError("a logistic fit did not converge; its rows hold too little information", code="not_converged")


def _times(x: Floats, theta: Floats) -> Floats:
    """Return [D, R] the linear predictor."""
    if x.ndim == 2:
        return np.asarray(theta @ x.T)
    return np.asarray(sum(x[..., k] * theta[:, [k]] for k in range(x.shape[-1])))


def _transposed_times(x: Floats, residual: Floats) -> Floats:
    """Return [D, K] the sums over rows of residual · x."""
    if x.ndim == 2:
        return np.asarray(residual @ x)
    return np.stack([np.einsum("dr,dr->d", residual, x[..., k]) for k in range(x.shape[-1])], 1)


def _gram(x: Floats, curvature: Floats) -> Floats:
    """Return [D, K, K] the sums over rows of curvature · x xᵀ."""
    k = x.shape[-1]
    if x.ndim == 2:
        return np.asarray(curvature @ (x[:, :, None] * x[:, None, :]).reshape(len(x), k * k)).reshape(-1, k, k)
    weighted = [curvature * x[..., i] for i in range(k)]
    return np.stack([_transposed_times(x, column) for column in weighted], 1)
