"""Important-token selection (FPT+, Sec. III-E): keep the tokens that the other tokens attend to most.

    queries  (N) ──┐
                   ├─ softmax over keys ─ mean over queries ─ importance (N) ─ top int(N·ratio) ─ keys', values'
    keys     (N) ──┘                                                                          (n kept tokens)

The class token counts as a query and as a key, like every other token. Where fused attention has left the log-sum-exp
of each row of scores, a probability is exp(q·k·scale − log-sum-exp), and else its row is normalised on the way. Either
way a block of scores at a time is made, in one buffer of a fixed size: the N×N matrix is never held.
"""

import torch
from torch import Tensor

from fptplus.errors import InvalidInput

from .attention import has_flash

CPU_BLOCK_BYTES = 4 * 2**20
"""Of scores at a time: what stays in a core's cache (measured: 1.2 to 2 times as fast as 16 MiB)."""

GPU_BLOCK_BYTES = 32 * 2**20


def token_importance(
    queries: Tensor, keys: Tensor, log_sum_exp: Tensor | None = None, block_bytes: int | None = None
) -> Tensor:
    """Mean attention that each token receives, per image and head; exact, in fp32 also for keys in half precision.

    Args:
        queries: (B, heads, N, head_dim), not yet scaled.
        keys: (B, heads, N, head_dim).
        log_sum_exp: (B, heads, N), of each query's scaled scores, where known.
        block_bytes: size of the one temporary, but at least one row of N numbers; by the device if None.

    Returns:
        (B, heads, N) importance in fp32; sums to 1 over the last axis.
    """
    batch, heads, tokens, head_dim = queries.shape
    on_cpu = queries.device.type == "cpu"
    if on_cpu or (queries.dtype == torch.bfloat16 and not has_flash(queries)):  # no product of bf16 in fp32
        queries, keys = queries.float(), keys.float()
    queries, keys = queries.flatten(0, 1), keys.flatten(0, 1).transpose(1, 2)
    offsets = None if log_sum_exp is None else -log_sum_exp.flatten(0, 1).unsqueeze(-1)
    numbers = (block_bytes or (CPU_BLOCK_BYTES if on_cpu else GPU_BLOCK_BYTES)) // 4
    num_rows = min(max(numbers // tokens, 1), tokens)
    num_heads = min(max(numbers // (num_rows * tokens), 1), len(queries))
    buffer = torch.empty(num_heads * num_rows * tokens, device=queries.device)
    total = torch.zeros(len(queries), tokens, device=queries.device)
    for head in range(0, len(queries), num_heads):
        some = slice(head, head + num_heads)
        for row in range(0, tokens, num_rows):
            rows = slice(row, row + num_rows)
            part = queries[some, rows]
            block = buffer[: len(part) * part.shape[1] * tokens].view(len(part), -1, tokens)
            _scores(part, keys[some], block)
            known = None if offsets is None else offsets[some, rows]
            total[some] += _probabilities(block, head_dim**-0.5, known).sum(dim=1)
    return (total / tokens).view(batch, heads, tokens)


def _scores(queries: Tensor, keys: Tensor, out: Tensor) -> None:
    """queries·keys into an fp32 buffer, accumulated in fp32; given a buffer, autocast leaves the product alone."""
    if queries.dtype == out.dtype:
        torch.bmm(queries, keys, out=out)
    else:
        torch.bmm(queries, keys, out_dtype=out.dtype, out=out)


def _probabilities(scores: Tensor, scale: float, negative_log_sum_exp: Tensor | None) -> Tensor:
    """softmax(scale·scores) of complete rows, in place."""
    if negative_log_sum_exp is None:
        negative_log_sum_exp = -(scores * scale).logsumexp(dim=-1, keepdim=True)
    return torch.add(negative_log_sum_exp, scores, alpha=scale, out=scores).exp_()


def num_important_tokens(num_tokens: int, token_ratio: float) -> int:
    """int(N · ratio), as the official code rounds.

    Raises:
        InvalidInput: if no token would be left.
    """
    kept = int(num_tokens * token_ratio)
    if kept < 1:
        raise InvalidInput(
            f"token_ratio must keep at least one of the {num_tokens} tokens, got {token_ratio}; "
            "use a larger ratio or a higher resolution."
        )
    return kept


def select_important_tokens(
    queries: Tensor, keys: Tensor, values: Tensor, token_ratio: float, log_sum_exp: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Keys and values of the most important tokens, each head choosing its own.

    Args:
        queries, keys, values: (B, heads, N, head_dim) of one LPM block.
        token_ratio: share of the N tokens to keep.
        log_sum_exp: (B, heads, N), as token_importance takes it.

    Returns:
        keys and values, each (B, heads, n, head_dim) with n = int(N · token_ratio), most important first.
    """
    kept = num_important_tokens(keys.shape[2], token_ratio)
    chosen = token_importance(queries, keys, log_sum_exp).topk(kept, dim=-1).indices
    index = chosen.unsqueeze(-1).expand(-1, -1, -1, keys.shape[-1])
    return keys.gather(2, index), values.gather(2, index)
