"""The training scripts behind the published measurements, as small functions. Each runs a few steps of its source.

Only what affects memory is kept: how the model is built, where the batch moves to the device, the order of forward
pass, `zero_grad`, backward pass and optimizer, and what stays referenced meanwhile. Each function trains on the current
CUDA device and leaves its peaks in `torch.cuda`, reset where its source resets them. Names are bound as in the source:
a batch that a loop variable still holds is still allocated.
"""

import gc
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from timm.loss import SoftTargetCrossEntropy
from timm.models import create_model
from timm.utils import ModelEma
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torchvision.models import vit_l_16
from transformers import ViTConfig, ViTForImageClassification

from . import lora_layers as lora
from .measurements import Measurement
from .older import FusedLamb, TwoDenominators, ddp_buckets, with_plain_attention

STEPS = 3
"""Number of steps, enough for the peak: optimizer state appears in the first step, kept gradients in the second."""


def on_device(build: Callable[[], nn.Module]) -> nn.Module:
    """Return a model on the CUDA device, with its parameters not filled.

    They lie in the order in which `.to` would allocate them.
    """
    with torch.device("meta"):
        model = build()
    return model.to_empty(device="cuda")


def batches(row: Measurement, count: int = STEPS, channels: int = 3) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield images and labels as a data loader does, in host memory."""
    for _ in range(count):
        yield torch.empty(row.batch, channels, row.res, row.res), torch.zeros(row.batch, dtype=torch.long)


def pytorch_memory_optim(row: Measurement) -> None:
    """rasbt/pytorch-memory-optim 02 to 06: Lightning Fabric, torchvision's ViT-L, CIFAR-10 at 224 px.

    `zero_grad` is called between forward and backward pass, or after the step with gradient accumulation. Fabric moves
    the next batch to the device while the loop still holds the last. For these shapes PyTorch 2.1 uses the
    memory-efficient kernel (`torch._fused_sdp_choice`), whose output has to be copied for the projection after it.
    """

    def build() -> nn.Module:
        model = vit_l_16(num_classes=10)
        return model if autocast else model.to(torch.bfloat16)

    autocast = row.precision == "fp16 autocast"
    accumulation = 4 if "accumulation" in row.method else 1
    model = on_device(build)
    make = {"adam (foreach)": TwoDenominators, "sgd without momentum": torch.optim.SGD}[row.optimizer]
    optimizer = make(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cuda", enabled=autocast)

    def forward(images: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cuda", torch.float16, enabled=autocast):
            return model(images if autocast else images.to(torch.bfloat16)).float()

    def loader(count: int) -> Iterator[tuple[torch.Tensor, ...]]:
        for images, labels in batches(row, count):
            yield images.cuda(), labels.cuda()

    for index, (images, labels) in enumerate(loader(STEPS * accumulation)):
        model.train()
        with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
            logits = forward(images)
        loss = F.cross_entropy(logits, labels) / accumulation
        if accumulation == 1:
            optimizer.zero_grad()
        scaler.scale(loss).backward()
        if index % accumulation == 0:
            scaler.step(optimizer)
            scaler.update()
            if accumulation > 1:
                optimizer.zero_grad()
        model.eval()
        (torch.argmax(logits, 1) == labels).sum()
    with torch.no_grad():
        for images, _labels in loader(2):
            torch.argmax(forward(images), 1)


def which_transformer(row: Measurement) -> None:
    """tobna/WhatTransformerToFavor (the data of transformer-benchmark.github.io): fine-tuning on ImageNet under DDP.

    timm's ViT with layer scale and drop path 0.05, CutMix on the device, FusedLAMB, GradScaler, the norm of all
    gradients. `zero_grad` is called first. apex sets gradients to None.
    """
    model = on_device(lambda: create_model(row.model, no_embed_class=True, init_values=1e-4, drop_path_rate=0.05))
    with_plain_attention(model)
    optimizer = FusedLamb(model.parameters())
    scaler = torch.amp.GradScaler("cuda")
    buckets = ddp_buckets(model)
    criterion = SoftTargetCrossEntropy()
    model.train()
    for images, labels in batches(row):
        optimizer.zero_grad()
        images = images.cuda()
        targets = F.one_hot(labels.cuda(), 1000).float()
        images[:, :, 50:150, 50:150] = images.flip(0)[:, :, 50:150, 50:150]
        with torch.autocast("cuda", torch.float16):
            logits = model(images)
            loss = criterion(logits, targets)
        loss.item()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.norm(torch.stack([torch.norm(parameter.grad) for parameter in model.parameters()]))
        scaler.step(optimizer)
        scaler.update()
        logits.topk(5)
    del buckets


def peft_lora_vit(row: Measurement) -> None:
    """headless-start/peft-lora-vit baselines.py, ViT-B on Oxford Pets: three methods in sequence in one process."""
    batch_sizes = {"linear": 64, "lora r8 on q, v": 64, "full": 16}
    for method, batch in batch_sizes.items():
        torch.cuda.empty_cache()
        _train_on_pets(replace(row, method=method, batch=batch))
        gc.collect()
        if method == row.method:
            return


def _train_on_pets(row: Measurement) -> None:
    """Train with one method: AdamW, GradScaler, drop path 0.1, validation.

    `zero_grad` is called after the forward pass: the last step's gradients are alive during the forward pass.
    """
    model = on_device(lambda: create_model(row.model, num_classes=37, drop_path_rate=0.1))
    if row.method != "full":
        model.requires_grad_(False)
    if row.method.startswith("lora"):
        for block in model.blocks:
            block.attn.qkv = lora.AddedToQkv(block.attn.qkv, rank=8).cuda()
    model.head.requires_grad_(True)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-4, weight_decay=0.05)
    scaler = torch.amp.GradScaler("cuda")
    torch.cuda.reset_peak_memory_stats()
    for training in (True, False):
        model.train(training)
        for images, labels in batches(row):
            images, labels = images.cuda(non_blocking=True), labels.cuda(non_blocking=True)
            with torch.set_grad_enabled(training), torch.autocast("cuda", torch.float16):
                logits = model(images)
                loss = F.cross_entropy(logits, labels)
            if training:
                optimizer.zero_grad(set_to_none=True)
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
            loss.item()
            (logits.argmax(1) == labels).sum().item()


def low_memory_bp(row: Measurement) -> None:
    """yyyyychen/LowMemoryBP vit_exp, lora_qv_ViT_B_baseline: LoRA of rank 4 on separate q and v, CIFAR-100.

    Attention is fused. The peak is that of one iteration, starting when its batch is on the device.
    """
    model = on_device(lambda: create_model("vit_base_patch16_224", num_classes=100))
    model.requires_grad_(False)
    for block in model.blocks:
        block.attn = lora.SeparateAttention(block.attn, rank=4).cuda()
    model.head.requires_grad_(True)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    scaler = torch.amp.GradScaler("cuda")
    model.train()
    for images, labels in batches(row):
        images, labels = images.cuda(), labels.cuda()
        torch.cuda.reset_peak_memory_stats()
        with torch.autocast("cuda", torch.float16):
            logits = model(images)
            loss = F.cross_entropy(logits, labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        logits.topk(5)


def deit(row: Measurement) -> None:
    """facebookresearch/deit main.py and HubHop/deit-mesa with PyTorch 1.7 and timm 0.3.2.

    Mixup, AdamW, GradScaler, DDP, drop path 0.1. `zero_grad` is called after the forward pass and keeps the gradients
    (PyTorch before 2.0). The first has a copy of the model for its moving average, the second has none.
    """
    model = on_device(lambda: create_model(row.model, drop_path_rate=0.1))
    with_plain_attention(model, select=True)
    average = ModelEma(model) if row.source.startswith("facebookresearch") else None
    buckets = ddp_buckets(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=False)
    scaler = torch.amp.GradScaler("cuda")
    criterion = SoftTargetCrossEntropy()
    model.train()
    for images, labels in batches(row):
        images = images.cuda()
        targets = F.one_hot(labels.cuda(), 1000).float()
        images.mul_(0.5).add_(images.flip(0).mul_(0.5))
        with torch.autocast("cuda", torch.float16):
            logits = model(images)
            loss = criterion(logits, targets)
        loss.item()
        optimizer.zero_grad(set_to_none=False)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        if average is not None:
            average.update(model)
    del buckets


def optimum_benchmark(row: Measurement) -> None:
    """huggingface/optimum-benchmark, training scenario: transformers' Trainer, fp32, five steps, clipping at 1."""
    config = ViTConfig(num_labels=1000, attn_implementation="sdpa")
    model = on_device(lambda: ViTForImageClassification(config))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.0, foreach=True)
    torch.cuda.reset_peak_memory_stats()
    for images, labels in batches(row, count=5):
        model.train()
        inputs = {"pixel_values": images.cuda(), "labels": labels.cuda()}
        loss = model(**inputs).loss
        del inputs
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.zero_grad()
        loss = loss.detach()


def vitstr(row: Measurement) -> None:
    """roatienza/deep-text-recognition-benchmark train.py: ViTSTR-Tiny on grey images, 96 characters.

    Adadelta, clipping at 5. The head reads the first 27 tokens (25 letters, start and end). Gradients are kept
    (PyTorch before 2.0).
    """
    model = on_device(lambda: create_model("vit_tiny_patch16_224", in_chans=1, num_classes=96))
    with_plain_attention(model, select=True)
    optimizer = torch.optim.Adadelta(model.parameters(), foreach=False)
    model.train()
    for images, _ in batches(row, channels=1):
        images = images.cuda()
        targets = torch.zeros(row.batch * 27, dtype=torch.long, device="cuda")
        characters = model.head(model.forward_features(images)[:, :27].flatten(0, 1))
        loss = F.cross_entropy(characters, targets, ignore_index=0)
        model.zero_grad(set_to_none=False)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0, foreach=False)
        optimizer.step()


def timm_benchmark(row: Measurement) -> None:
    """timm 0.6.7 benchmark.py --bench train --amp, PyTorch 1.12: SGD with Nesterov momentum, one batch for all steps.

    The backward pass runs inside autocast, so the half-precision copies of the weights live through it. Gradients are
    kept (PyTorch before 2.0).
    """
    model = on_device(lambda: create_model(row.model, drop_rate=0.0))
    with_plain_attention(model)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, nesterov=True, foreach=False)
    images = torch.empty(row.batch, 3, row.res, row.res, device="cuda")
    for _ in range(STEPS):
        optimizer.zero_grad(set_to_none=False)
        with torch.autocast("cuda", torch.float16):
            logits = model(images)
            labels = torch.zeros(row.batch, dtype=torch.long, device="cuda")
            F.cross_entropy(logits, labels).backward()
        optimizer.step()
