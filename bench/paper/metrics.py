"""Performance per parameter and per memory (FPT+, Eq. 9 and 10)."""

import math

FULL_MEM_MB = 23128
"""Memory of full fine-tuning in Table I, the denominator of every m in the paper."""


def efficiency(score: float, ratio: float) -> float:
    """PPE or PME: score · exp(-log10(ratio + 1)).

    Args:
        score: average AUC in percent.
        ratio: learnable to all parameters (PPE), or memory to that of full fine-tuning (PME), as a fraction.
    """
    return score * math.exp(-math.log10(ratio + 1))
