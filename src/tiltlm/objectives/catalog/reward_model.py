"""The reward model: learns a score, where every other method computes the reward from a policy.

It is fitted to the same comparisons by the same loss, and can score the responses of any policy.
"""

from tiltlm.core.checks import not_negative
from tiltlm.links import Logistic
from tiltlm.objectives.catalog.registry import register
from tiltlm.objectives.parts.regularisers import Centering
from tiltlm.objectives.shapes.pairwise import Pairwise
from tiltlm.rewards import Learned


@register
def reward_model(centering: float = 0.0) -> Pairwise:
    r"""Reward model: fits a score, read at the response's last token, to comparisons by Bradley–Terry likelihood.

    ℓ = −log σ( r_w − r_l − m ) + centering · (r_w + r_l)²,  m = offset

    Source: Ouyang et al. 2022, arXiv 2203.02155, eq. 1; margin by strength of preference: Touvron et al. 2023, arXiv
    2307.09288, eq. 2, as the column `offset`; centering: Eisenstein et al. 2023, arXiv 2312.09244.
    Units: r in log-odds of winning; offset in the same (Llama-2: 1, 2/3, 1/3, 0 from significantly to negligibly
    better); centering per r², off by default as in the first two papers; TRL suggests 0.01.
    When: responses that are in no data set must be judged: best-of-n, rejection sampling, online methods.
    Differs: as TRL's `RewardTrainer`, but comparisons share prompts, and the score is always read at the last token,
    never at an earlier one that looks like padding. It is saved as an ordinary sequence classifier with one label.
    Fails: without centering r is known up to a constant of the prompt: compare scores within a prompt only. A margin
    makes r larger. If longer responses win, it learns length: read the report's length row. Far from its data its
    scores mean little.
    """
    not_negative(centering=centering)
    reward = Learned()
    return Pairwise(reward, Logistic(), regularisers=(Centering(reward, centering),) if centering else ())
