"""What distinguishes FPT+ from FPT, as plain values (FPT+, Sec. IV-B1; FPT, arXiv 2403.07576)."""

from dataclasses import dataclass
from typing import Literal

from fptplus.errors import InvalidInput

Variant = Literal["fpt", "fptplus"]


@dataclass(frozen=True, kw_only=True)
class FPTConfig:
    """Hyperparameters of fine-grained prompt tuning on top of one frozen large pre-trained model (LPM)."""

    variant: Variant
    """Fusion module: FPT projects narrow prompts up, FPT+ normalises prompts of the LPM's width."""

    side_res: int
    """Height and width in pixels of the side network's input (Sec. III-C, asymmetric input)."""

    tapped_share: float
    """Share of the LPM's blocks, counted from the top, that feed a side layer (L_S / L_M)."""

    num_prompts: int = 16
    """Number of fine-grained prompts per tapped layer."""

    reduction_factor: int = 8
    """k: the side network is 1/k as wide as the LPM."""

    token_ratio: float = 0.2
    """Share of the LPM's tokens kept as important tokens, per layer and head (Sec. III-E)."""

    side_patch_size: int = 16
    """Patch size of the side network in pixels; it may differ from the LPM's."""

    def __post_init__(self) -> None:
        for name in ("side_res", "num_prompts", "reduction_factor", "side_patch_size"):
            if (value := getattr(self, name)) < 1:
                raise InvalidInput(f"{name} must be at least 1, got {value}.")
        for name in ("token_ratio", "tapped_share"):
            if not 0 < (value := getattr(self, name)) <= 1:
                raise InvalidInput(f"{name} must be above 0 and at most 1, got {value}.")
        if self.side_res % self.side_patch_size:
            raise InvalidInput(
                f"side_res must be a multiple of the side network's patch size {self.side_patch_size}, "
                f"got {self.side_res}."
            )

    def tapped_layers(self, depth: int) -> tuple[int, ...]:
        """Return the indices of the blocks that feed the side network, lowest first, for an LPM of `depth` blocks."""
        count = max(1, round(depth * self.tapped_share))
        return tuple(range(depth - count, depth))

    def side_dim(self, lpm_dim: int, lpm_heads: int) -> int:
        """Return the width of the side network, D/k; it has as many heads as the LPM.

        Raises:
            InvalidInput: if D/k is not a whole number, or is not divisible by the number of heads.
        """
        if lpm_dim % self.reduction_factor or (lpm_dim // self.reduction_factor) % lpm_heads:
            raise InvalidInput(
                f"reduction_factor must divide the LPM's width {lpm_dim} into a multiple of its {lpm_heads} heads, "
                f"got {self.reduction_factor}."
            )
        return lpm_dim // self.reduction_factor


FPT = FPTConfig(variant="fpt", side_res=224, tapped_share=1.0)
FPTPLUS = FPTConfig(variant="fptplus", side_res=128, tapped_share=0.5)
