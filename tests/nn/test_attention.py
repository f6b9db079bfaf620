import pytest
import torch
from torch.nn import functional as F

from frolic.nn.attention import softmax_attention
from frolic.nn.linear_attention import relu_linear_attention


def test_linear_attention_equals_the_quadratic_sum():
    q, k, v = torch.randn(3, 2, 9, 3, 4).abs().unbind()
    weights = torch.einsum("blnk,bmnk->bnlm", F.relu(q), F.relu(k))
    expected = torch.einsum("bnlm,bmnv->blnv", weights / weights.sum(-1, keepdim=True), v)
    assert torch.allclose(relu_linear_attention(q, k, v, eps=1e-15), expected, atol=1e-5)


def test_linear_attention_sums_in_float32_under_autocast():
    q = torch.ones(1, 4096, 1, 4)
    v = torch.full((1, 4096, 1, 4), 1.001)
    with torch.autocast("cpu", torch.bfloat16):
        out = relu_linear_attention(q, q, v, eps=1e-15)
    # In bfloat16 the sum of 4096 terms would be off by whole percents.
    assert torch.allclose(out, v, atol=1e-5)


@pytest.mark.parametrize("keys", [5, 200])
def test_softmax_attention_is_the_same_with_and_without_gradients(keys):
    q, k, v = torch.randn(2, 3, 7, 8), torch.randn(2, 3, keys, 8), torch.randn(2, 3, keys, 8)
    mask = torch.rand(2, 1, 1, keys) > 0.3
    mask[..., 0] = True
    with torch.no_grad():
        fused = softmax_attention(q, k, v, mask)
    assert torch.allclose(fused, softmax_attention(q, k, v, mask), atol=1e-5)
