import pytest
import torch
from torch import nn

from openlab.heads.linear_head import LinearHead
from openlab.layers.attention_pool import AttentionPool
from openlab.layers.pool import GeMPool, GlobalPool


def test_generalised_mean_has_the_value_worked_out_by_hand():
    x = torch.tensor([1.0, 2.0, 3.0, 0.0]).reshape(1, 1, 2, 2)
    # ((1 + 8 + 27 + 0) / 4) ** (1 / 3) = 9 ** (1 / 3)
    assert GeMPool(3.0)(x).item() == pytest.approx(9 ** (1 / 3), rel=1e-5)


def test_generalised_mean_lies_between_mean_and_maximum():
    x = torch.rand(2, 3, 4, 5)
    torch.testing.assert_close(GeMPool(1.0)(x), GlobalPool()(x))
    torch.testing.assert_close(GeMPool(200.0)(x), GlobalPool('max')(x), rtol=0.02, atol=0)
    middle = GeMPool(3.0)(x)
    assert (middle > GlobalPool()(x)).all() and (middle < GlobalPool('max')(x)).all()


def test_the_exponent_learns_unless_told_not_to():
    pool = GeMPool()
    pool(torch.randn(2, 3, 4, 4)).sum().backward()
    assert pool.p.grad.isfinite() and pool.p.grad != 0
    assert not GeMPool(trainable=False).p.requires_grad
    vectors = torch.randn(2, 3)
    assert GeMPool()(vectors) is vectors
    with pytest.raises(ValueError, match='must be positive'):
        GeMPool(0)


def test_attention_pool_equals_multi_head_attention_of_torch():
    torch.manual_seed(0)
    pool = AttentionPool(8, 2).eval()
    reference = nn.MultiheadAttention(8, 2, batch_first=True)
    reference.in_proj_weight.data, reference.in_proj_bias.data = pool.qkv.weight, pool.qkv.bias
    reference.out_proj.load_state_dict(pool.proj.state_dict())
    tokens = torch.randn(3, 6, 8)
    expected = reference(pool.probe.expand(3, -1, -1), tokens, tokens)[0][:, 0]
    expected = expected + pool.mlp(pool.norm(expected))
    torch.testing.assert_close(pool(tokens), expected)
    torch.testing.assert_close(pool(tokens.transpose(1, 2).reshape(3, 8, 2, 3)), expected)


@pytest.mark.parametrize('pool', [GeMPool(), AttentionPool(8, 2), GlobalPool('max')])
def test_a_linear_head_classifies_what_any_pool_gives(pool):
    head, maps = LinearHead(5, 8, pool=pool), torch.randn(2, 8, 3, 4)
    torch.testing.assert_close(head([maps]), head.fc(pool(maps)))
