import pytest
import torch
from torch import nn

from openlab.layers.conv import fold_norm
from openlab.layers.reparam import RepConv, conv_of, identity_kernel


def with_random_statistics(net):
    torch.manual_seed(0)
    for name, tensor in net.state_dict().items():
        if name.endswith(('running_mean', 'bias')):
            tensor.normal_()
        elif name.endswith(('running_var', 'norm.weight', 'identity.weight')):
            tensor.uniform_(0.5, 1.5)
    return net.double().eval()


@pytest.mark.parametrize('arguments', [
    {'in_channels': 3, 'out_channels': 6, 'kernels': (3, 1), 'stride': 2},
    {'in_channels': 6, 'out_channels': 6, 'kernels': (7, 3), 'groups': 6},
    {'in_channels': 6, 'out_channels': 6, 'kernels': (3, 1), 'groups': 2},
    {'in_channels': 6, 'out_channels': 6, 'kernels': (1,), 'with_identity': False},
    {'in_channels': 6, 'out_channels': 12, 'kernels': (3, 1), 'groups': 6, 'se_hidden': 3,
     'act': {'type': nn.GELU}}])
def test_one_convolution_gives_what_the_branches_gave(arguments):
    net = with_random_statistics(RepConv(**arguments))
    x = torch.randn(2, arguments['in_channels'], 9, 8).double()
    before = net(x)
    net.deploy()
    assert net.branches is None and net.identity is None
    torch.testing.assert_close(net(x), before)
    other = RepConv(**arguments, deployed=True).double()
    other.load_state_dict(net.state_dict())
    torch.testing.assert_close(other(x), before)
    weight = net.fused.weight
    net.deploy()  # once more changes nothing
    assert net.fused.weight is weight and torch.equal(net.folded()[0], weight)


def test_the_input_is_added_where_shapes_allow_it():
    assert RepConv(4, 4, (3,)).identity is not None
    assert RepConv(4, 4, (3,), stride=2).identity is None
    assert RepConv(4, 8, (3,)).identity is None
    assert RepConv(4, 4, (3,), with_identity=False).identity is None


def test_a_folded_norm_has_the_value_of_its_formula():
    norm = nn.BatchNorm2d(1, eps=0)
    norm.weight.data.fill_(3.0), norm.bias.data.fill_(1.0)
    norm.running_mean.fill_(2.0), norm.running_var.fill_(4.0)
    weight, bias = fold_norm(torch.full((1, 1, 1, 1), 10.0), norm)
    assert weight.item() == 15 and bias.item() == -2  # 3 (10 x - 2) / 2 + 1


@pytest.mark.parametrize('groups', [1, 2, 4])
def test_the_kernel_of_the_identity_changes_nothing(groups):
    kernel = identity_kernel(torch.empty(4, 4 // groups, 5, 5))
    x = torch.randn(1, 4, 6, 6)
    torch.testing.assert_close(conv_of(kernel, torch.zeros(4), groups=groups)(x), x)
