"""What older releases of PyTorch, timm and apex did in a training step, if it takes different memory today.

Sources: timm 0.3.2 and 0.6.7 (`vision_transformer.py`), PyTorch 2.0 (`torch/optim/adam.py`), apex
(`optimizers/fused_lamb.py`), PyTorch's `DistributedDataParallel`.
"""

from collections.abc import Iterable

import torch
from torch import nn

DDP_FIRST_BUCKET_BYTES = 2**20
DDP_BUCKET_BYTES = 25 * 2**20
"""Default bucket sizes of DistributedDataParallel (`dist._DEFAULT_FIRST_BUCKET_BYTES`, `bucket_cap_mb`)."""


class PlainAttention(nn.Module):
    """Attention of timm before 0.8: it scales the scores, not the queries, and its softmax is a separate operator."""

    def __init__(self, attention: nn.Module, *, select: bool = False) -> None:
        """Take the layers of today's attention.

        Args:
            attention: timm's attention, with `qkv`, `proj`, `num_heads` and `scale`.
            select: take queries, keys and values by index as timm 0.3 did; the backward pass of each index fills a
                gradient as large as all three.
        """
        super().__init__()
        self.qkv, self.proj = attention.qkv, attention.proj
        self.num_heads, self.scale, self.select = attention.num_heads, attention.scale, select

    def forward(self, tokens: torch.Tensor, **_no_mask) -> torch.Tensor:
        """Map (B, N, D) to (B, N, D); today's block passes a mask, which is None here."""
        batch, num_tokens, width = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, num_tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = (qkv[0], qkv[1], qkv[2]) if self.select else qkv.unbind(0)
        scores = (q @ k.transpose(-2, -1)) * self.scale
        weights = scores.softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(batch, num_tokens, width))


def with_plain_attention(model: nn.Module, *, select: bool = False) -> nn.Module:
    """Return the same timm model with `PlainAttention` in each block."""
    for block in model.blocks:
        block.attn = PlainAttention(block.attn, select=select)
    return model


class TwoDenominators(torch.optim.Optimizer):
    """Adam with `foreach` as in PyTorch 2.0 and its nightly builds of June 2023: square roots and denominators are two
    copies. Version 2.1 adds epsilon in place, which leaves one.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float = 1e-3, eps: float = 1e-8) -> None:
        super().__init__(parameters, {"lr": lr, "eps": eps})

    @torch.no_grad()
    def step(self) -> None:
        """Take one step; the values do not matter here, the tensors do."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            gradients = [parameter.grad for parameter in parameters]
            means, squares = _moments(self.state, parameters)
            torch._foreach_lerp_(means, gradients, 0.1)
            torch._foreach_mul_(squares, 0.999)
            torch._foreach_addcmul_(squares, gradients, gradients, 0.001)
            roots = torch._foreach_sqrt(squares)
            torch._foreach_div_(roots, 1.0)
            denominators = torch._foreach_add(roots, group["eps"])
            torch._foreach_addcdiv_(parameters, means, denominators, -group["lr"])


class FusedLamb(torch.optim.Optimizer):
    """The memory of apex's FusedLAMB: two moments per parameter, the update written into the gradient, nothing else."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float = 1e-3) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self) -> None:
        """Take one step; apex's `zero_grad` sets gradients to None."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            gradients = [parameter.grad for parameter in parameters]
            means, squares = _moments(self.state, parameters)
            torch._foreach_lerp_(means, gradients, 0.1)
            torch._foreach_addcmul_(squares, gradients, gradients, 0.001)
            torch._foreach_add_(parameters, gradients, alpha=-group["lr"])


def _moments(state: dict, parameters: list[nn.Parameter]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return the first and second moment of each parameter, initially zeros."""
    for parameter in parameters:
        if not state[parameter]:
            state[parameter] = {"mean": torch.zeros_like(parameter), "square": torch.zeros_like(parameter)}
    return [state[p]["mean"] for p in parameters], [state[p]["square"] for p in parameters]


def ddp_buckets(model: nn.Module) -> list[torch.Tensor]:
    """Return the flat buffers in which DistributedDataParallel reduces gradients, as large as the trained parameters.

    They exist in addition to the gradients (`gradient_as_bucket_view=False`, the default) as long as the wrapped model.
    """
    parameters = [parameter for parameter in reversed(list(model.parameters())) if parameter.requires_grad]
    limits = [DDP_FIRST_BUCKET_BYTES, DDP_BUCKET_BYTES]
    buckets, _ = torch.distributed._compute_bucket_assignment_by_size(parameters, limits)
    return [torch.empty(sum(parameters[i].numel() for i in bucket), device=parameters[0].device) for bucket in buckets]
