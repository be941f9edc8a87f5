"""BitFit: only bias terms are trained (Ben-Zaken et al., BitFit, 2022)."""

from dataclasses import dataclass

from timm.models.vision_transformer import VisionTransformer

from fptplus.training.fine_tuning import FineTuning

from .freezing import train_only
from .method import ImageMethod, image_fine_tuning


@dataclass(frozen=True)
class BitFit(ImageMethod):
    title = "BitFit"
    source = "Ben-Zaken et al., ACL 2022, arXiv 2106.10199"

    def build(self, vit: VisionTransformer, res: int) -> FineTuning:
        train_only(vit, lambda name: name.endswith(".bias"))
        return image_fine_tuning(vit, res)
