"""LoRA as two published scripts implement it: added to a fused qkv layer, and to separate q and v layers."""

import torch
import torch.nn.functional as F
from torch import nn


class AddedToQkv(nn.Module):
    """LoRA in headless-start/peft-lora-vit.

    Two deltas with zeros between them are concatenated and added to the frozen qkv.
    """

    def __init__(self, qkv: nn.Linear, rank: int) -> None:
        super().__init__()
        width = qkv.in_features
        self.qkv, self.scaling = qkv, 2.0
        self.q_down, self.v_down = (nn.Linear(width, rank, bias=False) for _ in range(2))
        self.q_up, self.v_up = (nn.Linear(rank, width, bias=False) for _ in range(2))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map (B, N, D) to (B, N, 3 D)."""
        qkv = self.qkv(tokens)
        q = self.q_up(self.q_down(tokens)) * self.scaling
        v = self.v_up(self.v_down(tokens)) * self.scaling
        return qkv + torch.cat([q, torch.zeros_like(q), v], dim=-1)


class _TwoProducts(torch.autograd.Function):
    """x A^T B^T that saves x as it came (not its half-precision copy) and recomputes the inner product."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cuda")
    def forward(ctx, x: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(down, up, x)
        return x @ down.t() @ up.t()

    @staticmethod
    @torch.amp.custom_bwd(device_type="cuda")
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        down, up, x = ctx.saved_tensors
        grad_x = grad @ up @ down if ctx.needs_input_grad[0] else None
        both = grad.reshape(-1, grad.size(-1)).t() @ x.reshape(-1, x.size(-1))
        return grad_x, up.t() @ both, both @ down.t()


class _LoraLinear(nn.Module):
    """A frozen layer and the product of two learned matrices."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, width), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(width), requires_grad=False)
        self.down = nn.Parameter(torch.empty(rank, width))
        self.up = nn.Parameter(torch.empty(width, rank))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight, self.bias) + _TwoProducts.apply(x, self.down, self.up)


class SeparateAttention(nn.Module):
    """Attention in yyyyychen/LowMemoryBP: q and v with LoRA, k without, fused attention."""

    def __init__(self, attention: nn.Module, rank: int) -> None:
        super().__init__()
        width = attention.proj.in_features
        self.num_heads = attention.num_heads
        self.q, self.v = _LoraLinear(width, rank), _LoraLinear(width, rank)
        self.k = nn.Linear(width, width).requires_grad_(False)
        self.proj = attention.proj

    def forward(self, tokens: torch.Tensor, **_no_mask) -> torch.Tensor:
        """Map (B, N, D) to (B, N, D); today's block passes a mask, which is None here."""
        batch, num_tokens, width = tokens.shape
        q, k, v = (
            layer(tokens).reshape(batch, num_tokens, self.num_heads, -1).permute(0, 2, 1, 3)
            for layer in (self.q, self.k, self.v)
        )
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(batch, num_tokens, width))
