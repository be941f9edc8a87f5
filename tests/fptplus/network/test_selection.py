import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fptplus import InvalidInput, select_important_tokens
from fptplus.network.attention import attention_with_log_sum_exp
from fptplus.network.selection import num_important_tokens, token_importance


def eager_importance(queries, keys):
    """The definition: mean over queries of the attention probabilities."""
    scores = queries @ keys.transpose(-2, -1) / queries.shape[-1] ** 0.5
    return scores.softmax(dim=-1).mean(dim=2)


@settings(deadline=None, max_examples=25)
@given(tokens=st.integers(1, 40), block_bytes=st.integers(4, 40_000), spread=st.floats(0.1, 5), known=st.booleans())
def test_importance_in_blocks_is_the_mean_of_the_whole_attention_matrix(tokens, block_bytes, spread, known):
    torch.manual_seed(tokens)
    queries, keys = torch.randn(2, 2, 3, tokens, 8) * spread
    log_sum_exp = attention_with_log_sum_exp(queries, keys, keys)[1] if known else None
    importance = token_importance(queries, keys, log_sum_exp, block_bytes)
    torch.testing.assert_close(importance, eager_importance(queries, keys), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(importance.sum(-1), torch.ones(2, 3), rtol=0, atol=1e-5)


def test_each_head_keeps_its_own_most_important_tokens():
    torch.manual_seed(0)
    queries, keys, values = torch.randn(3, 2, 3, 21, 8)
    kept_keys, kept_values = select_important_tokens(queries, keys, values, token_ratio=0.25)
    assert kept_keys.shape == (2, 3, 5, 8)
    importance = eager_importance(queries, keys)
    for image in range(2):
        for head in range(3):
            order = importance[image, head].argsort(descending=True)[:5]
            torch.testing.assert_close(kept_keys[image, head], keys[image, head, order])
            torch.testing.assert_close(kept_values[image, head], values[image, head, order])


def test_the_number_of_kept_tokens_is_rounded_down():
    assert num_important_tokens(1025, 0.2) == 205
    assert num_important_tokens(37, 0.2) == 7


def test_a_ratio_that_keeps_nothing_is_refused():
    with pytest.raises(InvalidInput, match=r"token_ratio must keep at least one of the 4 tokens, got 0.2"):
        num_important_tokens(4, 0.2)
