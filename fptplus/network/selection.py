"""Important-token selection (FPT+, Sec. III-E): keep the tokens that others attend to most.

    queries  (N) ──┐
                   ├─ softmax over keys ─ mean over queries ─ importance (N) ─ top int(N·ratio) ─ keys', values'
    keys     (N) ──┘                                                                          (n kept tokens)

Tokens are those of the frozen large pre-trained model (LPM). The class token counts as a query and as a key, like every
other token. If fused attention has given the log-sum-exp of each row of scores, a probability is
exp(q·k·scale − log-sum-exp); otherwise each row is normalised once computed. Either way scores are computed a block at
a time, in one buffer of fixed size: the N×N matrix is never held.
"""

import torch
from torch import Tensor

from fptplus.errors import InvalidInput

from .attention import has_flash

CPU_BLOCK_BYTES = 4 * 2**20
"""Size of a block of scores on a CPU: what stays in a core's cache (measured: 1.2 to 2 times as fast as 16 MiB)."""

GPU_BLOCK_BYTES = 32 * 2**20


def token_importance(
    queries: Tensor, keys: Tensor, log_sum_exp: Tensor | None = None, block_bytes: int | None = None
) -> Tensor:
    """Return the mean attention each token receives, per image and head; exact, in fp32 even for half-precision keys.

    Args:
        queries: (B, heads, N, head_dim), not yet scaled.
        keys: (B, heads, N, head_dim).
        log_sum_exp: (B, heads, N), the log-sum-exp of each query's scaled scores, if known.
        block_bytes: size of the one temporary, but at least one row of N numbers; None chooses it by device.

    Returns:
        Importance (B, heads, N) in fp32; it sums to 1 over the last axis.
    """
    batch, heads, tokens, head_dim = queries.shape
    on_cpu = queries.device.type == "cpu"
    if on_cpu or (queries.dtype == torch.bfloat16 and not has_flash(queries)):  # no bf16 product that gives fp32
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
    """Write queries·keys into an fp32 buffer, summed in fp32; autocast leaves a product with an out buffer alone."""
    if queries.dtype == out.dtype:
        torch.bmm(queries, keys, out=out)
    else:
        torch.bmm(queries, keys, out_dtype=out.dtype, out=out)


def _probabilities(scores: Tensor, scale: float, negative_log_sum_exp: Tensor | None) -> Tensor:
    """Compute softmax(scale·scores) of complete rows, in place."""
    if negative_log_sum_exp is None:
        negative_log_sum_exp = -(scores * scale).logsumexp(dim=-1, keepdim=True)
    return torch.add(negative_log_sum_exp, scores, alpha=scale, out=scores).exp_()


def num_important_tokens(num_tokens: int, token_ratio: float) -> int:
    """Return int(N · ratio), rounded as in the official code.

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
    """Select the keys and values of the most important tokens; each head chooses its own.

    Args:
        queries, keys, values: (B, heads, N, head_dim) of one LPM block.
        token_ratio: share of the N tokens to keep.
        log_sum_exp: (B, heads, N), see token_importance.

    Returns:
        Keys and values, each (B, heads, n, head_dim) with n = int(N · token_ratio), most important first.
    """
    kept = num_important_tokens(keys.shape[2], token_ratio)
    chosen = token_importance(queries, keys, log_sum_exp).topk(kept, dim=-1).indices
    index = chosen.unsqueeze(-1).expand(-1, -1, -1, keys.shape[-1])
    return keys.gather(2, index), values.gather(2, index)
