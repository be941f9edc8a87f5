"""FPT and FPT+ (Huang et al.): memory-efficient fine-tuning of a frozen Vision Transformer."""

from .backbone import FrozenBackbone as FrozenBackbone
from .config import FPT as FPT
from .config import FPTPLUS as FPTPLUS
from .config import FPTConfig as FPTConfig
from .errors import InvalidInput as InvalidInput
from .model import FineGrainedPromptTuning as FineGrainedPromptTuning
from .model import LiveFineGrainedPromptTuning as LiveFineGrainedPromptTuning
from .model import build_fpt as build_fpt
from .selection import select_important_tokens as select_important_tokens
from .weights import load_backbone as load_backbone
from .weights import load_hugging_face_vit as load_hugging_face_vit
from .weights import load_official_checkpoint as load_official_checkpoint
from .weights import load_vit as load_vit
from .weights import read_checkpoint as read_checkpoint
