import pytest
import torch

from openlab.layers.attention import CrossAttention


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
