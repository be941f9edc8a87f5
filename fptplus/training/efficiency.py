"""How good a classifier is for its size (FPT+, Sec. IV-B2)."""

import math


def performance_efficiency(score: float, ratio: float) -> float:
    """A score discounted by a cost: PPE for the share of learnable parameters, PME for memory (Eq. 9-10).

    Args:
        score: of any scale; the paper's are AUCs in percent.
        ratio: learnable over all parameters (PPE), or memory over that of full fine-tuning (PME), as a fraction.
    """
    return score * math.exp(-math.log10(ratio + 1))
