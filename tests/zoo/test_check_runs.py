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
