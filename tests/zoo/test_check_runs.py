"""The records behind ``zoo status`` are proofs that can be made again."""

import torch
from torch import nn

from openlab.shipped import shipped_root
from openlab.zoo.index import checks, has
from tests.zoo.test_index import script

NETWORK = {'source': 'torchvision', 'architecture': 'shufflenet_v2_x0_5', 'params': 0,
           'name': 'torchvision/shufflenet_v2_x0_5.IMAGENET1K_V1'}
CONFIG = 'classification/shufflenet_v2/shufflenet_v2_x05_300e_imagenet.py'


def test_every_record_is_of_an_entry_and_of_a_config_that_is_there():
    assert len(checks()) > 100
    for name, record in checks().items():
        assert has(name), f'{name} is gone: run tools/zoo/check_runs.py'
        assert (shipped_root() / 'configs' / record['config']).is_file(), name
        assert record['tensors'] > 10 and record['proof']


def test_a_network_that_fits_gives_the_same_record_again():
    tool = script('check_runs')
    record = tool.first_fit(NETWORK, 1000, [tool.Variant(CONFIG, ())])
    assert record == checks()[NETWORK['name']]


def test_a_network_of_other_numbers_does_not_run_although_its_shapes_fit(monkeypatch):
    tool = script('check_runs')
    real = tool.our_model

    def another(config, overrides):
        model = real(config, overrides)
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.eps = 0.01
        return model

    monkeypatch.setattr(tool, 'our_model', another)
    assert tool.first_fit(NETWORK, 1000, [tool.Variant(CONFIG, ())]) is None


def test_random_numbers_leave_no_branch_out():
    tool = script('check_runs')
    norm = nn.BatchNorm2d(4)
    nn.init.zeros_(norm.weight)
    tool.randomise(norm)
    assert norm.weight.min() >= 0.5 and not torch.equal(norm.running_var, torch.ones(4))


def test_one_more_class_costs_one_row_of_the_head():
    tool = script('check_runs')
    variant = tool.Variant(CONFIG, (), 1_000_000, 'ShuffleNetV2', 1025)
    assert tool.with_classes(variant, 1000) is variant
    more = tool.with_classes(variant, 1010)
    assert more.params == 1_010_250 and more.overrides == ('model.head.num_classes=1010',)


def test_a_network_that_ends_in_an_embedding_runs_as_a_backbone():
    tool = script('check_runs')
    record = {'config': CONFIG, 'overrides': ['model.backbone.size=1', 'model.head.num_classes=9']}
    assert tool.of_features(record) == {
        'config': CONFIG, 'overrides': ['model.backbone.size=1'], 'part': 'backbone'}
    clip = {'tasks': ['representation learning'], 'num_classes': 512}
    assert tool.is_embedding(clip) and not tool.is_embedding({**clip, 'num_classes': 0})
    assert not tool.is_embedding({**clip, 'tasks': ['image classification']})


def test_an_edit_reaches_the_backbone_or_the_part_that_it_names():
    tool = script('check_runs')
    model = {'backbone': {'size': 'w18'}, 'neck': {'type': 'HRMerge'}}
    edited = tool.edited_model(model, {'size': 'w32', 'neck.bias': False})
    assert edited == {'backbone': {'size': 'w32'}, 'neck': {'type': 'HRMerge', 'bias': False}}
    assert model['backbone'] == {'size': 'w18'}


def test_entries_of_one_file_share_their_record():
    tool = script('check_runs')
    name = 'mmpretrain/byol_resnet50_16xb256-coslr-200e_in1k'
    found = dict(tool.same_files('', {name: checks()[name]}))
    assert found == {'mmselfsup/byol_resnet50_16xb256-coslr-200e_in1k': checks()[name]}
    assert not dict(tool.same_files('', {}))


def test_a_proof_is_kept_only_by_the_same_network():
    tool = script('check_runs')
    new = {'config': CONFIG, 'proof': tool.NAMES, 'tensors': 20, 'overrides': ['a=1']}
    assert tool.stronger({**new, 'proof': tool.OUTPUTS}, new)['proof'] == tool.OUTPUTS
    assert tool.stronger({**new, 'proof': tool.OUTPUTS, 'overrides': ['a=2']}, new) == new
    assert tool.stronger(None, new) == new


def test_a_difference_is_told_by_its_size():
    tool = script('check_runs')
    ones = torch.ones(2, 3)
    assert tool.difference(ones, ones + 1e-6) == ''
    assert 'by 5.0e-01' in tool.difference(ones, 2 * ones)
    assert 'shape (2, 3), not (2, 4)' in tool.difference(ones, torch.ones(2, 4))
