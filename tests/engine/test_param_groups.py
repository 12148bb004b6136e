from __future__ import annotations

import pytest
from torch import nn

from openlab.engine.param_groups import build_param_groups, layer_depths


class Blocks(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 4, 1)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
                                    for _ in range(2))
        self.norm = nn.LayerNorm(4)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = Blocks()
        self.head = nn.Linear(4, 2)


def settings(model, lr=1.0, weight_decay=0.1, **rules):
    names = {id(p): n for n, p in model.named_parameters()}
    return {names[id(p)]: (g.get('lr', lr), g.get('weight_decay', weight_decay))
            for g in build_param_groups(model, lr, weight_decay, **rules) for p in g['params']}


def test_without_rules_there_is_one_group_of_all_parameters():
    model = Model()
    [group] = build_param_groups(model, 1.0, 0.1)
    assert group['params'] == list(model.parameters())


def test_norms_and_biases_have_their_own_decay_and_lr():
    found = settings(Model(), norm_decay_mult=0.0, bias_decay_mult=0.5, bias_lr_mult=2.0)
    assert found['head.weight'] == (1.0, 0.1)
    assert found['head.bias'] == (2.0, 0.05)
    assert found['backbone.norm.weight'] == found['backbone.norm.bias'] == (1.0, 0.0)


def test_weight_decay_may_be_left_out():
    found = settings(Model(), weight_decay=None, norm_decay_mult=0.0)
    assert found['backbone.norm.weight'] == (1.0, 0.0)


def test_the_longest_fitting_pattern_decides():
    found = settings(Model(), custom_keys={
        'backbone': {'lr_mult': 0.1}, 'backbone.blocks.*.bias': {'lr_mult': 5.0}})
    assert found['backbone.patch_embed.weight'] == (0.1, 0.1)
    assert found['backbone.blocks.0.0.bias'] == (5.0, 0.1)
    assert found['head.weight'] == (1.0, 0.1)


def test_a_pattern_that_fits_nothing_is_refused_with_near_names():
    with pytest.raises(ValueError, match=r"custom_keys\['backbon.block'\] fits no.*backbone.block"):
        settings(Model(), custom_keys={'backbon.block': {'lr_mult': 0.1}})


def test_a_rule_with_an_unknown_factor_is_refused():
    with pytest.raises(ValueError, match="has 'lr'; accepted: lr_mult, decay_mult"):
        settings(Model(), custom_keys={'head': {'lr': 0.1}})


def test_lr_falls_layer_by_layer_away_from_the_head():
    found = settings(Model(), layer_decay=0.5)
    # stem 0, blocks 1 and 2, last norm 3, head 4
    assert found['head.weight'][0] == 1.0
    assert found['backbone.norm.weight'][0] == 0.5
    assert found['backbone.blocks.1.0.weight'][0] == 0.25
    assert found['backbone.blocks.0.0.weight'][0] == 0.125
    assert found['backbone.patch_embed.weight'][0] == 0.0625


def test_the_blocks_of_resnet_stages_are_layers_each():
    class Stages(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 4, 1)
            self.layer1 = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
            self.layer2 = nn.Sequential(nn.Linear(1, 1))

    depths = layer_depths(Stages())
    assert [depths[f'{n}.weight'] for n in ('conv1', 'layer1.0', 'layer1.1', 'layer2.0')] == [
        0, 1, 2, 3]


def test_a_backbone_may_tell_the_depth_itself():
    class Told(Blocks):
        def layer_depth(self, name):
            return 7 if name.startswith('norm') else 0

    model = Model()
    model.backbone = Told()
    depths = layer_depths(model)
    assert depths['backbone.norm.bias'] == 7
    assert depths['head.bias'] == 8


def test_layer_decay_without_layers_says_what_is_missing():
    with pytest.raises(ValueError, match='give it a method layer_depth'):
        settings(nn.Linear(2, 2), layer_decay=0.5)


def test_parameters_that_a_model_wants_without_decay_have_none():
    class Tokens(Model):
        def no_weight_decay(self):
            return {'head.weight'}

    assert settings(Tokens())['head.weight'] == (1.0, 0.0)
