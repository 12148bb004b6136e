import pytest
import torch
import torch.nn.functional as F
from torch import nn

from openlab.backbones.van import VAN, LargeKernelAttention
from tests.backbones.parity import RELATIVE, count, key_map, relative_error

CHANNELS, NUM_BLOCKS, RATIOS = (8, 16, 24), (1, 2, 1), (8, 8, 4)
# What a block holds under OpenMMLab's names: shapes for C channels and H inside the MLP.
BLOCK = {
    'norm1.weight': 'C', 'norm1.bias': 'C', 'norm2.weight': 'C', 'norm2.bias': 'C',
    'layer_scale_1': 'C', 'layer_scale_2': 'C',
    'attn.proj_1.weight': 'CC11', 'attn.proj_1.bias': 'C',
    'attn.spatial_gating_unit.DW_conv.weight': 'C155', 'attn.spatial_gating_unit.DW_conv.bias': 'C',
    'attn.spatial_gating_unit.DW_D_conv.weight': 'C177',
    'attn.spatial_gating_unit.DW_D_conv.bias': 'C',
    'attn.spatial_gating_unit.conv1.weight': 'CC11', 'attn.spatial_gating_unit.conv1.bias': 'C',
    'attn.proj_2.weight': 'CC11', 'attn.proj_2.bias': 'C',
    'mlp.fc1.weight': 'HC11', 'mlp.fc1.bias': 'H', 'mlp.dwconv.weight': 'H133',
    'mlp.dwconv.bias': 'H', 'mlp.fc2.weight': 'CH11', 'mlp.fc2.bias': 'C',
}


def published():
    """Random weights under OpenMMLab's names, without the statistics of normalisations."""
    torch.manual_seed(0)
    state, before = {}, 3
    for i, (c, num, ratio) in enumerate(zip(CHANNELS, NUM_BLOCKS, RATIOS), start=1):
        kernel = 7 if i == 1 else 3
        state[f'patch_embed{i}.projection.weight'] = torch.randn(c, before, kernel, kernel) / 10
        state[f'patch_embed{i}.projection.bias'] = torch.randn(c)
        for name in (f'patch_embed{i}.norm', f'norm{i}'):
            state[f'{name}.weight'], state[f'{name}.bias'] = torch.rand(c) + 0.5, torch.randn(c)
        sizes = {'C': c, 'H': c * ratio}
        for j in range(num):
            for name, shape in BLOCK.items():
                shape = [sizes.get(s) or int(s) for s in shape]
                scale = torch.tensor(shape[1:]).prod().sqrt() if len(shape) > 1 else 1
                state[f'blocks{i}.{j}.{name}'] = torch.randn(shape) / scale
        before = c
    return {name: tensor.double().requires_grad_() for name, tensor in state.items()}


def reference(w, x, training):
    """The paper's equations 1 to 3 and figure 3, term by term, on fresh statistics."""
    def conv(name, x, **arguments):
        groups = x.shape[1] if w[f'{name}.weight'].shape[1] == 1 else 1
        return F.conv2d(x, w[f'{name}.weight'], w[f'{name}.bias'], groups=groups, **arguments)

    def batch_norm(name, x):
        mean, var = torch.zeros_like(x[0, :, 0, 0]), torch.ones_like(x[0, :, 0, 0])
        return F.batch_norm(x, mean, var, w[f'{name}.weight'], w[f'{name}.bias'], training)

    maps = []
    for i, (c, num) in enumerate(zip(CHANNELS, NUM_BLOCKS), start=1):
        stride, padding = (4, 3) if i == 1 else (2, 1)
        x = conv(f'patch_embed{i}.projection', x, stride=stride, padding=padding)
        x = batch_norm(f'patch_embed{i}.norm', x)
        for j in range(num):
            at = f'blocks{i}.{j}'
            normed = batch_norm(f'{at}.norm1', x)
            value = F.gelu(conv(f'{at}.attn.proj_1', normed))
            gate = f'{at}.attn.spatial_gating_unit'
            attention = conv(f'{gate}.DW_conv', value, padding=2)
            attention = conv(f'{gate}.DW_D_conv', attention, padding=9, dilation=3)
            attention = conv(f'{gate}.conv1', attention)
            attended = conv(f'{at}.attn.proj_2', attention * value) + normed
            x = x + w[f'{at}.layer_scale_1'].view(-1, 1, 1) * attended
            hidden = conv(f'{at}.mlp.dwconv', conv(f'{at}.mlp.fc1', batch_norm(f'{at}.norm2', x)),
                          padding=1)
            x = x + w[f'{at}.layer_scale_2'].view(-1, 1, 1) * conv(f'{at}.mlp.fc2', F.gelu(hidden))
        x = F.layer_norm(x.movedim(1, 3), (c,), w[f'norm{i}.weight'], w[f'norm{i}.bias'])
        x = x.movedim(3, 1)
        maps.append(x)
    return maps


def test_van_equals_a_reference_from_the_paper_with_the_same_weights():
    weights = published()
    net = VAN(channels=CHANNELS, num_blocks=NUM_BLOCKS, mlp_ratios=RATIOS, out_stages=(2, 3, 4))
    renames = key_map(VAN, 'openmmlab', weights)
    images = torch.randn(2, 3, 64, 64)
    for training in (True, False):
        report = net.load_state_dict(
            {k: v.detach() for k, v in renames.apply(weights).items()}, strict=False)
        assert not report.unexpected_keys
        assert all(k.endswith(('running_mean', 'running_var', 'num_batches_tracked'))
                   for k in report.missing_keys)
        for part in net.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.reset_running_stats()
        maps = net.train(training)(images)
        expected = reference(weights, images.double(), training)
        for ours, theirs in zip(maps, expected):
            assert relative_error(ours.double(), theirs) < RELATIVE

    net.double()
    sum(m.square().sum() for m in net(images.double())).backward()
    sum(m.square().sum() for m in expected).backward()
    grads = renames.apply({name: tensor.grad for name, tensor in weights.items()})
    for name, parameter in net.named_parameters():
        assert relative_error(parameter.grad, grads[name]) < RELATIVE, name


def test_the_three_convolutions_see_as_far_as_one_of_21():
    attention = LargeKernelAttention(1)
    image = torch.zeros(1, 1, 41, 41, requires_grad=True)
    nn.init.ones_(attention.local.weight), nn.init.ones_(attention.wide.weight)
    attention.wide(attention.local(image))[0, 0, 20, 20].backward()
    rows = image.grad[0, 0].sum(1).nonzero().flatten()
    # 7 taps with step 3 reach 9 to each side, those of 5 two more
    assert (rows.min().item(), rows.max().item()) == (20 - 11, 20 + 11)


@pytest.mark.parametrize(('size', 'millions'), [
    ('b0', 4.1), ('b1', 13.9), ('b2', 26.6), ('b3', 44.8), ('b4', 60.3), ('b5', 90.0)])
def test_parameter_count_is_that_of_the_paper(size, millions):
    with torch.device('meta'):
        net = VAN(size)
    total = count(net) + 1000 * (net.out_channels[-1] + 1)
    assert round(total / 1e6, 1) == millions


def test_names_of_the_authors_lead_to_ours():
    names = {
        'patch_embed1.proj.weight': 'embeds.0.conv.weight',
        'patch_embed4.norm.running_var': 'embeds.3.norm.running_var',
        'block3.4.norm2.bias': 'stages.2.4.norm2.bias',
        'block1.0.layer_scale_2': 'stages.0.0.scale2',
        'block1.0.attn.proj_1.weight': 'stages.0.0.attn.proj_in.weight',
        'block1.0.attn.spatial_gating_unit.conv0.weight': 'stages.0.0.attn.local.weight',
        'block1.0.attn.spatial_gating_unit.conv_spatial.bias': 'stages.0.0.attn.wide.bias',
        'block1.0.attn.spatial_gating_unit.conv1.bias': 'stages.0.0.attn.mix.bias',
        'block1.0.mlp.dwconv.dwconv.weight': 'stages.0.0.mlp.depthwise.weight',
        'block1.0.mlp.fc2.weight': 'stages.0.0.mlp.project.weight',
        'norm4.weight': 'norms.3.weight'}
    state = dict.fromkeys(names, torch.zeros(1))
    assert list(key_map(VAN, 'authors', state).apply(state)) == list(names.values())
    with torch.device('meta'):
        assert set(names.values()) <= set(VAN().state_dict())


def test_maps_of_all_stages_have_the_promised_channels_and_strides():
    net = VAN(channels=(4, 8, 12, 16), num_blocks=(1, 1, 1, 1), out_stages=(2, 3, 4, 5))
    maps = net(torch.randn(2, 3, 64, 96))
    assert [m.shape[1] for m in maps] == list(net.out_channels) == [4, 8, 12, 16]
    assert [64 // m.shape[2] for m in maps] == list(net.strides) == [4, 8, 16, 32]


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'size': 'tiny'}, "not 'tiny'"), ({'num_blocks': (1, 1)}, 'of each stage'),
    ({'out_stages': (1,)}, 'within 2 to 5')])
def test_wrong_arguments_are_refused_with_what_is_accepted(arguments, message):
    with pytest.raises(ValueError, match=message):
        VAN(**arguments)
