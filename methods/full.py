"""Full fine-tuning: every parameter is trained."""

from dataclasses import dataclass

from timm.models.vision_transformer import VisionTransformer

from fptplus.training.fine_tuning import FineTuning

from .method import ImageMethod, image_fine_tuning


@dataclass(frozen=True)
class Full(ImageMethod):
    title = "Full fine-tuning"
    source = "the usual way to transfer a pre-trained model (FPT+, Sec. IV-C)"

    def build(self, vit: VisionTransformer, res: int) -> FineTuning:
        return image_fine_tuning(vit.requires_grad_(True), res)
