import gzip
import json

import pytest
import torch
import torchvision

from openlab.apis.contracts import check_contract, check_contracts, read_contracts, table

NAME = 'configs/vgg/vgg11_8xb32_in1k.py'
CONVS = {0: (64, 3), 2: (128, 64), 4: (256, 128), 5: (256, 256), 7: (512, 256), 8: (512, 512),
         10: (512, 512), 11: (512, 512)}
LINEARS = {0: (4096, 25088), 3: (4096, 4096), 6: (1000, 4096)}


@pytest.fixture
def contract():
    names = {}
    for i, shape in CONVS.items():
        names[f'backbone.features.{i}.conv.weight'] = [[*shape, 3, 3], 'float32']
        names[f'backbone.features.{i}.conv.bias'] = [[shape[0]], 'float32']
    for i, shape in LINEARS.items():
        names[f'backbone.classifier.{i}.weight'] = [[*shape], 'float32']
        names[f'backbone.classifier.{i}.bias'] = [[shape[0]], 'float32']
    return names


def test_a_checkpoint_whose_names_and_shapes_fit_loads(contract):
    result = check_contract(NAME, contract)
    assert result.loads
    assert result.config == 'configs/classification/vgg/vgg16_100e_imagenet.py'


def test_a_name_too_many_is_told(contract):
    contract['backbone.features.11.scale'] = [[1], 'float32']
    assert '1 unexpected (backbone.stages.4.1.scale)' in check_contract(NAME, contract).problem


def test_a_wrong_shape_is_told(contract):
    contract['backbone.classifier.6.bias'] = [[999], 'float32']
    assert check_contract(NAME, contract).problem == '1 wrong shape (head.fc.bias)'


def test_a_missing_name_is_told(contract):
    del contract['backbone.classifier.3.weight']
    assert '1 missing (head.hidden.1.weight)' in check_contract(NAME, contract).problem


def test_an_unknown_network_counts_but_does_not_load(contract):
    results = check_contracts({NAME: contract, 'configs/vig/vig_tiny.py': {}})
    assert table(results).splitlines()[1:] == [
        f'{"vgg":<24}     1    1', f'{"vig":<24}     0    1', f'{"all":<24}     1    2']


def test_of_a_pre_training_that_we_lack_the_backbone_is_looked_at():
    with torch.device('meta'):
        peer = torchvision.models.resnet50().state_dict()
    contract = {f'backbone.{k}': [list(v.shape), 'float32'] for k, v in peer.items()
                if not k.startswith('fc.')}
    contract |= {'neck.0.weight': [[2, 3], 'float32'], 'target_net.module.0.conv1.weight': [
        [64, 3, 7, 7], 'float32']}
    name = 'configs/byol/byol_resnet50_16xb256-coslr-200e_in1k.py'
    [result] = check_contracts({name: contract})
    assert result.loads and result.part == 'backbone'
    assert table([result]).splitlines()[-1] == f'{"all":<24}     1    1      1'
    del contract['backbone.layer1.0.conv1.weight']
    assert '1 missing' in check_contract(name, contract).problem


def test_contracts_are_read_from_gzip_and_a_missing_file_is_told(tmp_path, contract):
    with gzip.open(tmp_path / 'c.json.gz', 'wt') as file:
        json.dump({NAME: contract}, file)
    assert read_contracts(tmp_path / 'c.json.gz') == {NAME: contract}
    with pytest.raises(FileNotFoundError, match='no contracts file'):
        read_contracts(tmp_path / 'd.json')
