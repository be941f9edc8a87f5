"""How good a classifier is for its size (FPT+, Sec. IV-B2)."""

import math


def performance_efficiency(score: float, ratio: float) -> float:
    """Return a score discounted by a cost: the paper's performance-to-parameter or -memory efficiency (Eq. 9-10).

    Args:
        score: a score on any scale; the paper's are AUCs in percent.
        ratio: a fraction: learnable over all parameters (performance-to-parameter efficiency, PPE), or memory over that
            of full fine-tuning (performance-to-memory efficiency, PME).
    """
    return score * math.exp(-math.log10(ratio + 1))
