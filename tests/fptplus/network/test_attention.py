import pytest
import torch

from fptplus.network.attention import attention_with_log_sum_exp


@pytest.mark.parametrize("head_dim", [5, 16, 64])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_the_output_and_the_log_sum_exp_are_those_of_explicit_scores(head_dim, dtype, tolerance):
    torch.manual_seed(0)
    queries, keys, values = torch.randn(3, 2, 3, 37, head_dim).to(dtype).unbind(0)
    out, log_sum_exp = attention_with_log_sum_exp(queries, keys, values)
    scores = queries.float() @ keys.float().transpose(-2, -1) / head_dim**0.5
    torch.testing.assert_close(log_sum_exp, scores.logsumexp(dim=-1), rtol=0, atol=1e-3)
    torch.testing.assert_close(out.float(), scores.softmax(dim=-1) @ values.float(), rtol=0, atol=tolerance)


@pytest.mark.parametrize(("dtype", "head_dim"), [(torch.float32, 64), (torch.bfloat16, 64), (torch.float32, 12)])
def test_traced_kernels_give_a_log_sum_exp_of_the_same_shape(dtype, head_dim):
    queries = torch.empty(2, 3, 37, head_dim, dtype=dtype, device="meta")
    out, log_sum_exp = attention_with_log_sum_exp(queries, queries, queries)
    assert out.shape == queries.shape and log_sum_exp.shape == (2, 3, 37)


def test_head_widths_that_no_such_kernel_takes_go_without():
    queries = torch.empty(2, 3, 37, 5, device="meta")
    out, log_sum_exp = attention_with_log_sum_exp(queries, queries, queries)
    assert out.shape == queries.shape and log_sum_exp is None
