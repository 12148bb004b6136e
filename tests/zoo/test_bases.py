import pytest

from openlab.zoo.bases import base_of_entry, bases_of
from openlab.zoo.card import licence_chain


@pytest.mark.parametrize(('source', 'name'), [
    ('zoo://mobilenet-v2', 'openlab/mobilenet-v2'),
    ('timm://resnet50.a1_in1k', 'timm/resnet50.a1_in1k'),
    ('torchvision://mobilenet_v2.IMAGENET1K_V2', 'torchvision/mobilenet_v2.IMAGENET1K_V2'),
    ('hf://facebook/dinov2-base/model.safetensors@main', 'transformers/facebook/dinov2-base'),
    ('hf://timm/resnet50.a1_in1k/model.safetensors', 'timm/resnet50.a1_in1k'),
])
def test_an_address_is_found_in_the_index(source, name):
    for load_from in (source, {'source': source, 'replace_head': True}):
        [base] = bases_of({'load_from': load_from})
        assert base.entry is not None and base.name == name and not base.is_local


def test_without_a_tag_an_entry_is_found_where_all_have_the_same_terms():
    [base] = bases_of({'load_from': 'torchvision://mobilenet_v2'})
    assert base.name.startswith('torchvision/mobilenet_v2.')
    [base] = bases_of({'load_from': 'timm://resnet50'})  # on several data, by several licences
    assert base.entry is None


def test_a_path_is_called_by_its_end_alone():
    [base] = bases_of({'load_from': {'source': '/data/someone/wd/checkpoints/best'}})
    assert base.is_local and base.entry is None and base.name == 'best'
    assert base.setting == 'load_from.source'


def test_weights_inside_of_a_model_are_found_and_what_is_none_is_not():
    config = {'model': {
        'teacher_weights': 'zoo://mobilenet-v2', 'class_weights': [1.0, 2.0],
        'tokenizer': 'hf://org/words/vocab.json', 'loss': {'weight': 1.0, 'type': 'a.b'},
        'tasks': [{'backbone': {'type': 'openlab.backbones.timm_backbone.TimmBackbone',
                                'name': 'resnet50.a1_in1k', 'pretrained': True}},
                  {'backbone': {'type': 'TorchvisionBackbone', 'name': 'mobilenet_v2',
                                'pretrained': 'IMAGENET1K_V2'}},
                  {'backbone': {'type': 'TimmBackbone', 'name': 'a', 'pretrained': False}}]}}
    assert [(base.setting, base.name, base.role) for base in bases_of(config)] == [
        ('model.teacher_weights', 'openlab/mobilenet-v2', 'taught by'),
        ('model.tasks[0].backbone.pretrained', 'timm/resnet50.a1_in1k', 'started from'),
        ('model.tasks[1].backbone.pretrained', 'torchvision/mobilenet_v2.IMAGENET1K_V2',
         'started from')]


def test_a_config_that_trains_from_random_values_has_no_bases():
    assert bases_of({'load_from': None, 'model': {'type': 'a.B'}}) == []


def test_unknown_weights_leave_open_what_would_be_permitted_and_permit_nothing_forbidden():
    unknown = bases_of({'load_from': 'wd/best'})
    assert 'whole: **yes**' in licence_chain('mit', ['Fashion-MNIST'])
    assert 'whole: **unclear**' in (text := licence_chain('mit', ['Fashion-MNIST'], unknown))
    assert '| started from best | not known | unclear | licence and training data' in text
    assert 'whole: **no**' in licence_chain('mit', ['ImageNet-1k'], unknown)
    known = [base_of_entry('mobilenet-v2')]
    assert 'whole: **no**' in licence_chain('mit', ['Fashion-MNIST'], [*unknown, *known])
