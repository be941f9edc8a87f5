"""The predicted memory of FPT+'s step against that of the plain baseline's: ViT-B, 512 px, batch 16, A6000.

Both are traced alike; without the context of CUDA.
"""

import pytest
import torch

import fptplus
from bench.config import CellConfig
from bench.plain_fpt import PlainFPT
from bench.predict.devices import find_gpu
from bench.predict.kernels import CudaKernels
from bench.predict.predictor import INSTALLED_TORCH, predict
from bench.predict.replay import replay
from bench.predict.rules import RULES, Target
from bench.predict.trace import trace_training
from fptplus.training import TrainingStep, make_optimizer

BATCH, TOKENS, GPU = 16, 205, "a6000"


def plain_peak_bytes():
    config = fptplus.FPTPLUS
    layers = len(config.tapped_layers(12))
    with torch.device("meta"):
        model = PlainFPT(
            variant="fptplus",
            num_layers=layers,
            num_prompts=config.num_prompts,
            lpm_dim=768,
            num_heads=12,
            dim=config.side_dim(768, 12),
            res=config.side_res,
            patch_size=config.side_patch_size,
            num_classes=5,
        )
        images = torch.empty(BATCH, 3, config.side_res, config.side_res)
        features = torch.empty(2, layers, BATCH, 12, TOKENS, 64)
        targets = torch.zeros(BATCH, dtype=torch.long)
    step = TrainingStep(model, make_optimizer("adamw", model.parameters()))
    target = Target(find_gpu(GPU), INSTALLED_TORCH)
    with CudaKernels("eager"):
        trace = trace_training(step, (images, features), targets, target=target, rules=RULES.values())
    return replay(trace).allocated_bytes


def peak_bytes(method, **axes):
    return predict(CellConfig(method=method, model="vit_b", res=512, batch_size=BATCH, gpu=GPU, **axes)).peak


@pytest.fixture(scope="module")
def plain():
    return plain_peak_bytes()


def test_the_fast_step_on_int8_features_takes_at_most_a_third(plain):
    fast = peak_bytes("fptplus_int8", precision="bf16", attention="sdpa", optimizer="adamw_fused")
    assert fast.allocated_bytes <= plain / 3
