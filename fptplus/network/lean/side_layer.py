"""A layer of the side network with a hand-written backward pass, so that it keeps and computes little.

    x = [tokens, prompts]     q, K, V = LN₁(x) · Wᵀ + b     y = x + attention · Wₚᵀ + bₚ     out = y + MLP(LN₂(y))

Only the first tokens are queries and are passed on. What is cheap is recomputed in the backward pass instead of being
kept: the outputs of the LayerNorms, and the GELU of the MLP's hidden activations, which are four times as large as the
tokens. The residual stream stays in the dtype it arrives in.
"""

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor

from fptplus import cpu_kernels
from fptplus.network.precision import products_dtype

from .side_attention import side_attention


def side_layer(block: Block, tokens: Tensor, prompts: Tensor, kept: int) -> Tensor:
    """Apply a block to its first tokens; the other tokens and the prompts serve only as keys and values.

    Args:
        block: a plain pre-norm transformer block.
        tokens, prompts: (B, T, D) and (B, P, D).
        kept: the number of tokens that are passed on.

    Returns:
        (B, kept, D).
    """
    attention, mlp = block.attn, block.mlp
    norm1, norm2, dtype = block.norm1, block.norm2, products_dtype(tokens)
    qkv, stream = NormedQKV.apply(
        tokens, prompts, kept, dtype, norm1.eps, norm1.weight, norm1.bias, attention.qkv.weight, attention.qkv.bias
    )
    attended = side_attention(qkv.unflatten(-1, (3, attention.num_heads, -1)), kept)
    linears = (attention.proj, norm2, mlp.fc1, mlp.fc2)
    parameters = (parameter for module in linears for parameter in (module.weight, module.bias))
    return AfterAttention.apply(stream, attended, norm2.eps, *parameters)


class NormedQKV(torch.autograd.Function):
    """Queries, keys and values (B, T + P, 3·D) of all tokens, and the residual stream (B, kept, D) of those kept."""

    @staticmethod
    def forward(
        ctx,
        tokens: Tensor,
        prompts: Tensor,
        kept: int,
        dtype: torch.dtype,
        eps: float,
        norm_weight: Tensor,
        norm_bias: Tensor,
        weight: Tensor,
        bias: Tensor,
    ) -> tuple[Tensor, Tensor]:
        x = torch.cat([tokens, prompts.to(tokens.dtype)], dim=1)
        weight, bias = weight.to(dtype), bias.to(dtype)
        normed, *stats = _layer_norm(x, norm_weight, norm_bias, eps, dtype)
        ctx.save_for_backward(x, norm_weight, norm_bias, weight, *stats)
        ctx.num_tokens, ctx.eps = tokens.shape[1], eps
        return F.linear(normed, weight, bias), x[:, :kept]

    @staticmethod
    def backward(ctx, grad: Tensor, grad_stream: Tensor) -> tuple[Tensor | None, ...]:
        x, norm_weight, norm_bias, weight, *stats = ctx.saved_tensors
        normed, *_ = _layer_norm(x, norm_weight, norm_bias, ctx.eps, weight.dtype)
        of_linear = _gradients_of_weight_and_bias(normed, grad)
        del normed
        grad_x, *of_norm = _layer_norm_backward(grad @ weight, x, norm_weight, norm_bias, stats, grad_stream)
        of_inputs = grad_x[:, : ctx.num_tokens], grad_x[:, ctx.num_tokens :]
        return *of_inputs, None, None, None, *of_norm, *of_linear


class AfterAttention(torch.autograd.Function):
    """The output (B, kept, D) of a layer, from its residual stream and its attention, both (B, kept, D)."""

    @staticmethod
    def forward(ctx, stream: Tensor, attended: Tensor, eps: float, *parameters: Tensor) -> Tensor:
        dtype = attended.dtype
        norm_weight, norm_bias = parameters[2:4]
        proj, proj_bias, _, _, fc1, bias1, fc2, bias2 = (part.to(dtype) for part in parameters)
        y = stream + F.linear(attended, proj, proj_bias)
        normed, *stats = _layer_norm(y, norm_weight, norm_bias, eps, dtype)
        hidden = F.linear(normed, fc1, bias1)
        ctx.save_for_backward(attended, y, hidden, proj, norm_weight, norm_bias, fc1, fc2, *stats)
        ctx.eps = eps
        return y + F.linear(_gelu(hidden), fc2, bias2)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        attended, y, hidden, proj, norm_weight, norm_bias, fc1, fc2, *stats = ctx.saved_tensors
        grad_branch = grad.to(attended.dtype)
        activated, grad_hidden = _gelu_again(hidden, grad_branch @ fc2)
        of_fc2 = _gradients_of_weight_and_bias(activated, grad_branch)
        del activated, grad_branch
        normed, *_ = _layer_norm(y, norm_weight, norm_bias, ctx.eps, attended.dtype)
        of_fc1 = _gradients_of_weight_and_bias(normed, grad_hidden)
        grad_normed = grad_hidden @ fc1
        del normed, grad_hidden
        grad_y, *of_norm = _layer_norm_backward(grad_normed, y, norm_weight, norm_bias, stats, grad)
        grad_branch = grad_y.to(attended.dtype)
        of_proj = _gradients_of_weight_and_bias(attended, grad_branch)
        return grad_y, grad_branch @ proj, None, *of_proj, *of_norm, *of_fc1, *of_fc2


def _gradients_of_weight_and_bias(x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of a linear layer, from its input (B, T, in) and the gradient of its output (B, T, out).

    On a GPU a sum over many rows is split over blocks that meet in scratch memory, four times as large as `grad` if
    that is narrow. A product with ones needs none.
    """
    grad = grad.flatten(0, 1)
    is_on_cpu = grad.device.type == "cpu"
    of_bias = grad.sum(dim=0) if is_on_cpu else (grad.new_ones(1, len(grad)) @ grad).squeeze(0)
    return grad.mT @ x.flatten(0, 1), of_bias


def _layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return LN(x) of (B, T, D) in a dtype, and what its backward pass needs: one tensor for a CPU kernel, else two."""
    if _has_kernel(x, dtype):
        out, stats = torch.empty(x.shape, dtype=dtype), torch.empty(*x.shape[:2], 2)
        cpu_kernels.run("layer_norm", x, weight, bias, torch.tensor([eps]), out, stats)
        return out, stats
    out, mean, scale = torch.native_layer_norm(x, x.shape[-1:], weight, bias, eps)
    return out.to(dtype), mean, scale


def _layer_norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, stats: list[Tensor], residual: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, weight and bias; `residual` (B, some tokens, D) is added to x's first tokens."""
    if _has_kernel(x, grad.dtype):
        grad_x, sums = torch.empty_like(x), torch.empty(len(x), 2, x.shape[-1])
        residual = cpu_kernels.side_by_side(residual)
        cpu_kernels.run("layer_norm_backward", x, weight, *stats, grad, residual, grad_x, sums)
        return grad_x, *sums.sum(dim=0)
    grads = torch.ops.aten.native_layer_norm_backward(
        grad.to(x.dtype), x, x.shape[-1:], *stats, weight, bias, [True, True, True]
    )
    grads[0][:, : residual.shape[1]] += residual
    return grads


def _has_kernel(x: Tensor, dtype: torch.dtype) -> bool:
    return x.dtype == torch.float32 and dtype in cpu_kernels.TYPES and cpu_kernels.can_run_on(x)


def _gelu(x: Tensor) -> Tensor:
    if not cpu_kernels.can_run_on(x):
        return F.gelu(x)
    out = torch.empty_like(x)
    cpu_kernels.run("gelu", x.view(-1), out.view(-1))
    return out


def _gelu_again(x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Recompute the GELU of x, and return the gradient of x from that of the output as well."""
    if not cpu_kernels.can_run_on(x):
        return F.gelu(x), torch.ops.aten.gelu_backward(grad, x)
    out, grad_x = torch.empty_like(x), torch.empty_like(x)
    cpu_kernels.run("gelu_backward", *(part.view(-1) for part in (x, grad, out, grad_x)))
    return out, grad_x
