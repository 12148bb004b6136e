import pytest
import torch
from transformers import SegformerConfig, SegformerForImageClassification, SegformerModel

from openlab.backbones.mit import MixTransformer, ReducedAttention
from tests.backbones.parity import count, relative_error

DIMS, HEADS = (16, 32, 40, 64), (1, 2, 5, 8)
SIZES = {
    'b0': ((32, 64, 160, 256), (2, 2, 2, 2)), 'b1': ((64, 128, 320, 512), (2, 2, 2, 2)),
    'b2': ((64, 128, 320, 512), (3, 4, 6, 3)), 'b3': ((64, 128, 320, 512), (3, 4, 18, 3)),
    'b4': ((64, 128, 320, 512), (3, 8, 27, 3)), 'b5': ((64, 128, 320, 512), (3, 6, 40, 3)),
}  # fmt: skip


def make(**kwargs):
    return MixTransformer(embed_dims=DIMS, num_blocks=(1, 1, 2, 1), num_heads=HEADS, **kwargs)


@pytest.mark.parametrize('size', SIZES)
def test_parameter_count_equals_transformers(size):
    dims, depths = SIZES[size]
    with torch.device('meta'):
        peer = SegformerModel(SegformerConfig(
            hidden_sizes=dims, depths=depths, num_attention_heads=(1, 2, 5, 8)))  # fmt: skip
        assert count(MixTransformer(size)) == count(peer)


def test_all_maps_equal_transformers():
    torch.manual_seed(0)
    peer = SegformerForImageClassification(SegformerConfig(
        hidden_sizes=DIMS, depths=(1, 1, 2, 1), num_attention_heads=HEADS)).segformer.eval()
    for p in peer.parameters():  # norms start at one and zero, which would hide mistakes
        if p.ndim == 1:
            torch.nn.init.uniform_(p, 0.5, 1.0)
    ours = make(out_stages=(2, 3, 4, 5)).eval()
    current = MixTransformer.weights[0]
    assert current.matches(peer.state_dict())
    ours.load_state_dict(current.apply(peer.state_dict()))
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = peer(images, output_hidden_states=True).hidden_states
        maps = ours(images)
    for mine, other, stride in zip(maps, expected, ours.strides, strict=True):
        assert mine.shape[-2:] == (64 // stride, 96 // stride)
        assert relative_error(mine, other) < 1e-4


def test_stages_after_the_last_wanted_one_are_not_built():
    assert len(make(out_stages=(2, 4)).stages) == 3
    assert make(out_stages=(2, 4)).out_channels == (16, 40)
    assert make(out_stages=(2, 4)).strides == (4, 16)


def test_maps_that_the_reduction_does_not_divide_are_taken():
    # 4 x 6 tokens in the first stage, reduced by 8: there would be no key at all
    assert make()(torch.rand(1, 3, 16, 24))[0].shape == (1, 64, 1, 1)


def test_without_reduction_attention_is_that_of_torch():
    torch.manual_seed(0)
    ours, peer = ReducedAttention(8, 2), torch.nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        peer.in_proj_weight.copy_(torch.cat([m.weight for m in (ours.q, ours.k, ours.v)]))
        peer.in_proj_bias.copy_(torch.cat([m.bias for m in (ours.q, ours.k, ours.v)]))
        peer.out_proj.load_state_dict(ours.proj.state_dict())
    x = torch.randn(2, 6, 8)
    torch.testing.assert_close(ours(x, (2, 3)), peer(x, x, x)[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'size': 'b6'}, "not 'b6'"), ({'embed_dims': (8, 16)}, 'each stage needs an entry'),
    ({'num_heads': (3, 2, 5, 8)}, 'cannot be split'), ({'out_stages': (1,)}, 'out_stages'),
])  # fmt: skip
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        MixTransformer(**arguments)
