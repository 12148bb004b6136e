import pytest
import torch
import torchvision
from torch import nn

from openlab.layers.norm import FrozenBatchNorm2d, RMSNorm


@pytest.mark.parametrize('shape', [(3, 5, 8), (8,)])
def test_rms_norm_and_its_gradients_equal_torch(shape):
    torch.manual_seed(0)
    ours, theirs = RMSNorm(8, 1e-2).double(), nn.RMSNorm(8, 1e-2).double()
    nn.init.normal_(ours.weight)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    y, expected = ours(x), theirs(x)
    assert 'RMSNormFunction' in type(y.grad_fn).__name__
    torch.testing.assert_close(y, expected)
    grad = torch.randn_like(y)
    for mine, other in zip(torch.autograd.grad(y, (x, ours.weight), grad),
                           torch.autograd.grad(expected, (x, theirs.weight), grad), strict=True):
        torch.testing.assert_close(mine, other)


def test_frozen_batch_norm_equals_torchvision_and_shares_its_weights():
    ours, theirs = FrozenBatchNorm2d(4), torchvision.ops.FrozenBatchNorm2d(4)
    for tensor in theirs.state_dict().values():
        tensor.uniform_(0.5, 2)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 4, 3, 3, requires_grad=True)
    torch.testing.assert_close(ours.train()(x), theirs(x))
    assert not list(ours.parameters())
