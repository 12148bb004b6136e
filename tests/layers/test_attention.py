import pytest
import torch
import torch.nn.functional as F

from openlab.layers.attention import CrossAttention, attend


def test_cross_attention_equals_torchs_own():
    torch.manual_seed(0)
    ours, theirs = CrossAttention(16, 4), torch.nn.MultiheadAttention(16, 4, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_bias.normal_()
        parts = zip((ours.q_proj, ours.k_proj, ours.v_proj), theirs.in_proj_weight.chunk(3),
                    theirs.in_proj_bias.chunk(3))
        for layer, weight, bias in parts:
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
    ours.proj.load_state_dict(theirs.out_proj.state_dict())
    query, key, value = torch.rand(2, 3, 16), torch.rand(2, 5, 16), torch.rand(2, 5, 16)
    seen = torch.rand(2, 1, 3, 5) > 0.3
    seen[..., 0] = True
    expected = theirs(query, key, value, attn_mask=~seen[:, 0].repeat_interleave(4, 0))[0]
    torch.testing.assert_close(ours(query, key, value, seen), expected)


def test_heads_that_do_not_divide_the_embedding_are_refused():
    with pytest.raises(ValueError, match='num_heads=3'):
        CrossAttention(16, 3)


@pytest.mark.parametrize('autocast', [True, False])
@pytest.mark.parametrize('masked', [True, False])
def test_attention_in_bfloat16_is_trained_in_float32(autocast, masked):
    torch.manual_seed(0)
    dtype = torch.float32 if autocast else torch.bfloat16
    q, k, v = (torch.randn(2, 3, 5, 8).bfloat16().to(dtype).requires_grad_() for _ in range(3))
    mask = torch.randn(1, 3, 5, 5) if masked else None
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        found = attend(q, k, v, attn_mask=mask)
    expected = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask)
    assert found.dtype == torch.bfloat16 and found.equal(expected.bfloat16())
    grads = torch.autograd.grad(found.float().square().sum(), (q, k, v))
    theirs = torch.autograd.grad(expected.bfloat16().float().square().sum(), (q, k, v))
    assert all(torch.equal(a, b) for a, b in zip(grads, theirs))


def test_values_may_be_longer_than_keys():
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 6, 8), torch.randn(2, 3, 6, 16)
    bias = torch.randn(1, 3, 4, 6)
    kept = bias.clone()
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    torch.testing.assert_close(attend(q, k, v, attn_mask=bias), expected)
    assert bias.equal(kept)
