"""Linear probing: only a new head is trained, and no gradient flows back into the backbone."""

from dataclasses import dataclass

from timm.models.vision_transformer import VisionTransformer

from fptplus.training.fine_tuning import FineTuning

from .freezing import train_only
from .method import ImageMethod, image_fine_tuning


@dataclass(frozen=True)
class Linear(ImageMethod):
    title = "Linear probing"
    source = "FPT+, Sec. IV-C"

    def build(self, vit: VisionTransformer, res: int) -> FineTuning:
        train_only(vit, lambda name: False)
        return image_fine_tuning(vit, res)
