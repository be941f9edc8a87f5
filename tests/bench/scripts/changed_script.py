"""Trains small models with changes made from outside and with the same changes made by hand, each in a fork: CASE ….

Each case is a model, a change and who makes it (nobody, hand, outside); for each, a line with the two peaks in bytes,
and what the change says of itself.
"""

import importlib
import os
import sys
from contextlib import nullcontext

import timm
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

STEPS, BATCH, RES, WIDTH, DEPTH = 3, 32, 64, 192, 4


class Block(nn.Module):
    """Attention as torch.nn has it, and an MLP."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 3, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))
        self.needs_weights = True

    def forward(self, tokens):
        values = self.norm(tokens)
        tokens = tokens + self.attention(values, values, values, need_weights=self.needs_weights)[0]
        return tokens + self.mlp(tokens)


class PlainViT(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, WIDTH, 4, 4)
        self.layers = nn.ModuleList(Block() for _ in range(DEPTH))
        self.head = nn.Linear(WIDTH, 10)
        self.is_checkpointed = False

    def forward(self, images):
        tokens = self.embed(images).flatten(2).transpose(1, 2)
        for layer in self.layers:
            tokens = checkpoint(layer, tokens, use_reentrant=False) if self.is_checkpointed else layer(tokens)
        return self.head(tokens.mean(1))


def timm_vit():
    timm.layers.set_fused_attn(False)
    return timm.create_model("test_vit", img_size=RES, num_classes=10)


def huggingface_vit():
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=3, intermediate_size=4 * WIDTH, image_size=RES,
        patch_size=4, attn_implementation="eager",
    )  # fmt: skip
    model = ViTForImageClassification(config)
    model.train()
    return model


MODELS = {"plain": PlainViT, "timm": timm_vit, "huggingface": huggingface_vit, "linear": lambda: nn.Linear(WIDTH, 10)}


def change_by_hand(model, kind, change):
    if change == "checkpointing":
        if kind == "plain":
            model.is_checkpointed = True
        elif kind == "timm":
            model.set_grad_checkpointing()
        else:
            model.gradient_checkpointing_enable({"use_reentrant": False})
    if change == "fused_attention":
        for module in model.modules():
            if kind == "plain" and isinstance(module, Block):
                module.needs_weights = False
            elif kind == "timm" and hasattr(module, "fused_attn"):
                module.fused_attn = True
        if kind == "huggingface":
            model.set_attn_implementation("sdpa")


def train(kind, change, by_hand):
    model = MODELS[kind]().cuda()
    if by_hand:
        change_by_hand(model, kind, change)
    accumulates = by_hand and change == "half"
    optimizer = torch.optim.AdamW(model.parameters(), fused=True if by_hand and change == "fused_optimizer" else None)
    shape = (WIDTH,) if kind == "linear" else (3, RES, RES)
    images = TensorDataset(torch.zeros(BATCH * STEPS, *shape), torch.zeros(BATCH * STEPS, dtype=torch.long))
    loader = DataLoader(images, batch_size=BATCH // 2 if accumulates else BATCH)
    autocast = by_hand and change == "autocast"
    for number, (batch, targets) in enumerate(loader):
        with torch.autocast("cuda", torch.bfloat16) if autocast else nullcontext():
            output = model(batch.cuda())
            loss = nn.functional.cross_entropy(getattr(output, "logits", output), targets.cuda())
        if not accumulates or number % 2 == 0:
            optimizer.zero_grad()
        loss.backward()
        if not accumulates or number % 2 == 1:
            optimizer.step()


def run(kind, change, by_whom):
    changes = {}
    if by_whom == "outside":
        names = ["half_batches", "half_steps"] if change == "half" else [change]
        changes = importlib.import_module("_emulated_script.script_changes").start(torch, names)
    train(kind, change, by_whom == "hand")
    told = [one.done or f"not: {one.reason}" for one in changes.values()]
    print(torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved(), *told, sep="|", flush=True)


if __name__ == "__main__":
    if any(case.startswith("huggingface") for case in sys.argv[1:]):
        import transformers.models.vit.modeling_vit  # noqa: F401, once for all
    for case in sys.argv[1:]:
        if os.fork() == 0:
            run(*case.split(","))
            os._exit(0)
        if os.wait()[1]:
            sys.exit(f"{case} has failed")
