"""Important-token selection (FPT+, Sec. III-E): keep the tokens that the other tokens attend to most.

    queries  (N) ──┐
                   ├─ softmax over keys ─ mean over queries ─ importance (N) ─ top int(N·ratio) ─ keys', values'
    keys     (N) ──┘                                                                          (n kept tokens)

The class token counts as a query and as a key, like every other token. The scores are taken a slice of queries at a
time, each row's softmax being complete in itself, so the N×N matrix is never held whole.
"""

import torch
from torch import Tensor

from .errors import InvalidInput


def token_importance(queries: Tensor, keys: Tensor, query_chunk: int = 256) -> Tensor:
    """Mean attention that each token receives, per image and head.

    Args:
        queries: (B, heads, N, head_dim), not yet scaled.
        keys: (B, heads, N, head_dim).
        query_chunk: queries handled at once; bounds the temporary to B·heads·query_chunk·N numbers.

    Returns:
        (B, heads, N) importance in fp32; sums to 1 over the last axis.
    """
    batch, heads, tokens, head_dim = queries.shape
    total = queries.new_zeros((batch, heads, tokens), dtype=torch.float32)
    for chunk in queries.split(query_chunk, dim=2):
        scores = (chunk * head_dim**-0.5) @ keys.transpose(-2, -1)
        total += scores.softmax(dim=-1, dtype=torch.float32).sum(dim=2)
    return total / tokens


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


def select_important_tokens(queries: Tensor, keys: Tensor, values: Tensor, token_ratio: float) -> tuple[Tensor, Tensor]:
    """Keys and values of the most important tokens, each head choosing its own.

    Args:
        queries, keys, values: (B, heads, N, head_dim) of one LPM block.
        token_ratio: share of the N tokens to keep.

    Returns:
        keys and values, each (B, heads, n, head_dim) with n = int(N · token_ratio), most important first.
    """
    kept = num_important_tokens(keys.shape[2], token_ratio)
    chosen = token_importance(queries, keys).topk(kept, dim=-1).indices
    index = chosen.unsqueeze(-1).expand(-1, -1, -1, keys.shape[-1])
    return keys.gather(2, index), values.gather(2, index)
