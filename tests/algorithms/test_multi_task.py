"""Two algorithms on one backbone compute what each computes alone, in the same runner."""

import copy

import pytest
import torch

from openlab.algorithms.multi_task import SharedMaps
from openlab.config.build import BuildError, build
from openlab.structures.data_sample import DataSample

FPN = 'openlab.necks.fpn.FPN'
BACKBONE = {'type': 'ResNet', 'block': 'basic', 'num_blocks': (1, 1, 1, 1), 'base_channels': 8,
            'out_stages': (2, 3, 4, 5)}
DETECTION = {
    'type': 'FCOS', 'backbone': {'type': 'SharedMaps', 'levels': (1, 2, 3)},
    'neck': {'type': 'FPN', 'out_channels': 16},
    'head': {'type': 'FCOSHead', 'num_classes': 3, 'num_convs': 1, 'strides': (8, 16, 32)}}
SEGMENTATION = {
    'type': 'SegFormer', 'backbone': {'type': 'SharedMaps'},
    'head': {'type': 'SegFormerHead', 'num_classes': 4, 'channels': 16, 'dropout': 0.0}}


def model_cfg(**changes):
    return copy.deepcopy({
        'type': 'MultiTask', 'backbone': BACKBONE,
        'tasks': {'detection': DETECTION, 'segmentation': SEGMENTATION}, **changes})


def batch():
    torch.manual_seed(1)
    samples = [
        DataSample(meta={'img_id': i, 'img_shape': (64, 64)}, boxes=torch.tensor([[4., 8, 40, 50]]),
                   labels=torch.tensor([i]), semantic_map=torch.full((64, 64), i))
        for i in range(2)]
    return torch.randn(2, 3, 64, 64), samples


def alone(multi, cfg, name, levels):
    """The algorithm of a task on a backbone of its own, with the weights of the shared one."""
    single = build({**copy.deepcopy(cfg), 'backbone': {**BACKBONE, 'out_stages': levels}})
    state = {f'backbone.{k}': v for k, v in multi.backbone.state_dict().items()}
    state |= multi.tasks[name].state_dict()
    single.load_state_dict(state)
    return single


def test_losses_are_those_of_the_algorithms_alone():
    multi = build(model_cfg(loss_weights={'segmentation': 0.5})).train()
    inputs, samples = batch()
    expected = {}
    for name, cfg, levels, weight in (('detection', DETECTION, (3, 4, 5), 1.0),
                                      ('segmentation', SEGMENTATION, (2, 3, 4, 5), 0.5)):
        single = alone(multi, cfg, name, levels).train()
        losses = single(inputs, samples, mode='loss')
        expected |= {k.replace('loss', f'loss_{name}', 1): weight * v
                     for k, v in losses.items() if k.startswith('loss')}
    found = multi(inputs, samples, mode='loss')
    assert set(found) == set(expected) == {
        'loss_detection_cls', 'loss_detection_box', 'loss_detection_centerness',
        'loss_segmentation_seg'}
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0)


def test_predictions_hold_what_each_task_predicts_alone():
    multi = build(model_cfg()).eval()
    inputs, samples = batch()
    with torch.no_grad():
        found = multi(inputs, samples, mode='predict')
        boxes = alone(multi, DETECTION, 'detection', (3, 4, 5)).eval()(
            inputs, samples, mode='predict')
        maps = alone(multi, SEGMENTATION, 'segmentation', (2, 3, 4, 5)).eval()(
            inputs, samples, mode='predict')
    for both, box, semantic, sample in zip(found, boxes, maps, samples):
        assert both.meta == sample.meta
        assert torch.equal(both.boxes, box.boxes) and torch.equal(both.scores, box.scores)
        assert torch.equal(both.semantic_map, semantic.semantic_map)


def test_a_shared_neck_feeds_the_tasks():
    task = {**SEGMENTATION, 'backbone': {'type': 'SharedMaps', 'levels': (0, 1)}}
    multi = build(model_cfg(neck={'type': 'FPN', 'out_channels': 12}, tasks={'maps': task}))
    assert multi.tasks['maps'].backbone.out_channels == (12, 12)
    assert multi(torch.rand(1, 3, 64, 64))['maps'].logits.shape == (1, 4, 64, 64)


def test_two_tasks_that_predict_the_same_are_told_apart():
    multi = build(model_cfg(tasks={'a': SEGMENTATION, 'b': SEGMENTATION})).eval()
    with pytest.raises(ValueError, match="'a' and 'b' both predict semantic_map"):
        multi(*batch(), mode='predict')


@pytest.mark.parametrize(('changes', 'message'), [
    ({'tasks': {}}, 'no tasks'),
    ({'loss_weights': {'detektion': 1}}, r"\['detektion'\]; tasks are \['detection'"),
    ({'tasks': {'a': {**SEGMENTATION, 'backbone': BACKBONE}}}, 'must be SharedMaps, not ResNet'),
    ({'tasks': {'a': {**SEGMENTATION, 'preprocessor': {'type': 'ImagePreprocessor'}}}},
     'has a preprocessor'),
    ({'tasks': {'a': {**SEGMENTATION, 'backbone': {'type': 'SharedMaps', 'levels': (4,)}}}},
     'names 4, but 4 maps are shared')])
def test_what_cannot_be_joined_is_refused(changes, message):
    with pytest.raises(BuildError, match=message):
        build(model_cfg(**changes))


def test_shared_maps_outside_of_a_task_say_where_they_belong():
    with pytest.raises(ValueError, match='inside of a task of MultiTask'):
        SharedMaps()
