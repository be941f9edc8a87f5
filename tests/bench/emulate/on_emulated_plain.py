"""The plain formulation of FPT+ on an emulated card, called in a process of its own."""

import torch

import fptplus
from fptplus.reference import PlainFPT
from fptplus.training.step import TrainingStep, make_optimizer


def peak_allocated_bytes(batch_size, tokens):
    """Of a training step with fp32 features once the optimizer's state is there: ViT-B, FPT+'s sizes."""
    config = fptplus.FPTPLUS
    layers = len(config.tapped_layers(12))
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
    ).cuda()
    images = torch.empty(batch_size, 3, config.side_res, config.side_res, device="cuda")
    features = torch.empty(2, layers, batch_size, 12, tokens, 64, device="cuda")
    targets = torch.zeros(batch_size, dtype=torch.long, device="cuda")
    step = TrainingStep(model, make_optimizer("adamw", model.parameters()))
    for _ in range(3):
        torch.cuda.reset_peak_memory_stats()
        step((images, features), targets)
    return torch.cuda.max_memory_allocated()
