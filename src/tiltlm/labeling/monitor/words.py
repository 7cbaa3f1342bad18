"""Shares in the words of the monitor, and in its pages."""

SPACE = "\N{NO-BREAK SPACE}"


def percent(share: float, decimals: int = 0) -> str:
    """Return a share as a percentage: `74 %`."""
    return f"{100 * share:.{decimals}f}{SPACE}%"


def probability(share: float) -> str:
    """Return a probability as a percentage. What simulations cannot tell from 0 or 1 is not called so."""
    if share > 0.999:
        return f"more than 99.9{SPACE}%"
    return f"less than 0.1{SPACE}%" if share < 0.001 else percent(share, 1)
