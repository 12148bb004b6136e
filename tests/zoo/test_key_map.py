import pytest
import torch

from openlab.zoo.key_map import KeyMap


def test_renames_apply_one_after_the_other():
    key_map = KeyMap('x', renames=[(r'^fc\.', 'head.fc.'), (r'^layer(\d)\.', r'stages.\1.')])
    state = {'fc.weight': torch.ones(1), 'layer2.0.conv1.weight': torch.zeros(2)}
    assert list(key_map.apply(state)) == ['head.fc.weight', 'stages.2.0.conv1.weight']
    assert list(state) == ['fc.weight', 'layer2.0.conv1.weight']


def test_dropped_keys_are_left_out_with_their_reason():
    key_map = KeyMap('x', drops=[(r'attn\.bias$', 'a mask, not a weight')])
    state = {'attn.bias': torch.ones(1), 'attn.weight': torch.ones(1)}
    assert list(key_map.apply(state)) == ['attn.weight']
    assert key_map.dropped(state) == {'attn.bias': 'a mask, not a weight'}


def test_a_transform_changes_a_tensor():
    key_map = KeyMap('x', transforms=[(r'proj\.weight$', lambda t: t.T)])
    assert key_map.apply({'proj.weight': torch.ones(2, 3)})['proj.weight'].shape == (3, 2)


def test_a_transform_splits_a_fused_weight():
    def split(tensor):
        return dict(zip(('q.', 'k.', 'v.'), tensor.chunk(3)))

    key_map = KeyMap('x', transforms=[(r'qkv\.', split)])
    result = key_map.apply({'attn.qkv.weight': torch.arange(3)})
    assert {k: v.item() for k, v in result.items()} == {
        'attn.q.weight': 0, 'attn.k.weight': 1, 'attn.v.weight': 2}


def test_two_keys_with_one_new_name_are_refused_naming_both():
    key_map = KeyMap('x', renames=[(r'^[ab]\.', 'c.')])
    with pytest.raises(ValueError, match=r"'a\.w' and 'b\.w' the name 'c\.w'"):
        key_map.apply({'a.w': torch.ones(1), 'b.w': torch.ones(1)})


def test_a_format_is_recognised_by_its_keys():
    key_map = KeyMap('torchvision', renames=[(r'^layer\d', 'x'), (r'^fc\.', 'head.')])
    assert key_map.matches({'layer1.w': torch.ones(1), 'fc.bias': torch.ones(1)})
    assert not key_map.matches({'stages.0.w': torch.ones(1), 'fc.bias': torch.ones(1)})
    named = KeyMap('timm', renames=[(r'^head\.', 'h.')], signature=[r'^blocks\.'])
    assert named.matches({'blocks.0.w': torch.ones(1)})


def test_names_beside_a_module_are_placed_relative_to_where_it_sits():
    key_map = KeyMap('x', renames=[(r'^fc\.', '../head.fc.')])
    state = {'conv.weight': torch.ones(1), 'fc.weight': torch.ones(2)}
    assert list(key_map.apply_at('backbone.', state)) == [
        'backbone.conv.weight', 'head.fc.weight']
    assert list(key_map.apply_at('student.backbone.', state)) == [
        'student.backbone.conv.weight', 'student.head.fc.weight']
    assert list(key_map.apply_at('', state)) == ['conv.weight']


def test_query_key_and_value_are_merged_in_the_given_order_where_all_are_there():
    key_map = KeyMap('x', merges=[(r'\.([qkv])_proj\.', '.qkv.', ('q', 'k', 'v'))])
    state = {f'{b}.{n}_proj.weight': torch.full((1, 2), i)
             for b in (0, 1) for i, n in enumerate('vqk')}
    del state['1.k_proj.weight']
    result = key_map.apply(state)
    assert set(result) == {'0.qkv.weight', '1.q_proj.weight', '1.v_proj.weight'}
    assert result['0.qkv.weight'].tolist() == [[1, 1], [2, 2], [0, 0]]
