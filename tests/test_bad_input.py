"""What is wrong in the data is told with its place, by the file that is read or by the loss.

Readers of files drop what cannot be learnt from and tell it (``tests/data/datasets`` has the cases
of each layout); a loss that is handed it all the same refuses.
"""

import copy
import json

import pytest
import torch

from openlab.backbones.llama import LlamaDecoder
from openlab.data.datasets.coco import CocoDataset
from openlab.structures.data_sample import DataSample
from openlab.targets.nms import check_objects, truth_of

from .test_configs import NUM_CLASSES, SCENE, build_tiny, prepared, scene_batch, tiny_model_of

BOX = [4.0, 4.0, 20.0, 24.0]


def sample(**changes):
    known = {'boxes': torch.tensor([BOX]), 'labels': torch.tensor([1]), 'meta': {'img_id': 7}}
    return DataSample(**known | changes)


@pytest.mark.parametrize(('changes', 'message'), [
    ({'labels': torch.tensor([3])}, r'sample 7 has the label 3, .* num_classes=3 \(0 to 2\)'),
    ({'labels': torch.tensor([-1])}, 'has the label -1'),
    ({'boxes': torch.tensor([[4.0, 4, 4, 24]])}, r'box \[4, 4, 4, 24\].*x1 < x2'),
    ({'boxes': torch.tensor([[4.0, float('nan'), 20, 24]])}, 'finite numbers'),
    ({'boxes': torch.tensor([[4.0, 4, float('inf'), 24]])}, 'finite numbers'),
    ({'masks': torch.ones(2, 8, 8, dtype=torch.bool)}, 'has 2 masks for 1 objects'),
])
def test_truth_that_no_head_could_learn_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        truth_of(sample(**changes), num_classes=3)


def test_what_can_be_learnt_passes():
    check_objects(sample(), 3)
    empty = sample(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    assert [len(t) for t in truth_of(empty, 3)] == [0, 0]


def change_label(truth):
    truth.labels[0] = NUM_CLASSES
    truth.segments[0]['label'] = NUM_CLASSES
    truth.semantic_map[0, 0] = NUM_CLASSES


DETECTORS = ('RetinaNet', 'FCOS', 'FasterRCNN', 'MaskRCNN', 'DETR', 'Mask2Former', 'MultiTask')


@pytest.mark.parametrize('algorithm', [*DETECTORS, 'FCN'])
def test_every_loss_refuses_a_label_above_its_classes(algorithm):
    model = build_tiny(tiny_model_of(algorithm)).train()
    batch = prepared(model, scene_batch(2), training=True)
    change_label(batch['samples'][1])
    told = rf'(label|class) {NUM_CLASSES}\b.*num_classes={NUM_CLASSES}'
    with pytest.raises(ValueError, match=told):
        model(batch['inputs'], batch['samples'], mode='loss')


@pytest.mark.parametrize('algorithm', DETECTORS[:5])
def test_images_without_objects_have_a_loss(algorithm):
    model = build_tiny(tiny_model_of(algorithm)).train()
    batch = prepared(model, scene_batch(2), training=True)
    for truth in batch['samples']:
        for name in ('boxes', 'labels', 'masks', 'is_crowd'):
            setattr(truth, name, getattr(truth, name)[:0])
    losses = model(batch['inputs'], batch['samples'], mode='loss')
    total = sum(v for k, v in losses.items() if k.startswith('loss'))
    total.backward()
    assert total.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(('algorithm', 'message'), [
    ('MaskRCNN', f'masks of sample 0 are 9 x {SCENE}, but its image is {SCENE} x {SCENE}'),
    ('Mask2Former', f'masks of sample 0 are {SCENE + 9} x {SCENE}, larger than the input')])
def test_masks_of_another_size_are_named(algorithm, message):
    model = build_tiny(tiny_model_of(algorithm)).train()
    batch = prepared(model, scene_batch(1), training=True)
    truth = copy.copy(batch['samples'][0])
    truth.masks = torch.zeros(1, 9, SCENE, dtype=torch.bool)
    truth.panoptic_map = torch.ones(SCENE + 9, SCENE, dtype=torch.long)
    truth.semantic_map = torch.zeros(SCENE + 9, SCENE, dtype=torch.long)
    if algorithm == 'Mask2Former':
        truth.masks = torch.zeros(1, SCENE + 9, SCENE, dtype=torch.bool)
    with pytest.raises(ValueError, match=message):
        model(batch['inputs'], [truth], mode='loss')


def test_a_coco_file_tells_everything_that_is_wrong_with_it(tmp_path):
    boxes = {1: [2, 2, 9, 9], 2: [50, 2, 9, 9], 3: [2, 2, 0, 9], 4: [2, float('nan'), 9, 9],
             5: [2, 2, 9, 9], 6: [2, 2, 9, 9]}
    rows = [{'id': i, 'image_id': 1, 'category_id': 90, 'bbox': b, 'area': 81, 'iscrowd': 0,
             'segmentation': [[2, 2, 11, 2, 11, 11]]} for i, b in boxes.items()]
    rows[4]['segmentation'] = {'size': [9, 9], 'counts': 'x'}
    rows[5]['category_id'] = 7
    content = {'images': [{'id': 1, 'file_name': 'a.png', 'height': 32, 'width': 32},
                          {'id': 2, 'file_name': 'b.png', 'height': 32, 'width': 32}],
               'categories': [{'id': 3, 'name': 'low'}, {'id': 90, 'name': 'high'}],
               'annotations': rows}
    (tmp_path / 'a.json').write_text(json.dumps(content))
    dataset = CocoDataset(ann_file='a.json', data_root=tmp_path, with_masks=True)
    assert dataset.metainfo['classes'] == ('low', 'high')
    # Of the ids 3 and 90, without a gap; the second image has no objects.
    assert [v.tolist() for v in dataset.labels()] == [[1], []]
    told = {int(d.source.split('annotation ')[1].split(',')[0]): d.reason for d in dataset.dropped}
    assert told == {
        2: 'box lies outside of its image', 3: 'box has no area',
        4: 'box is not four finite numbers', 5: 'mask is 9 x 9 but its image is 32 x 32',
        6: 'category_id 7 is not one of categories (3, 90)'}


@pytest.mark.parametrize(('tokens', 'message'), [
    ([1, 50], r'token 50 lies beyond the vocabulary of 50 \(0 to 49\)'),
    ([-1, 2], 'token -1 lies beyond'),
    ([1] * 9, 'a sequence of 9 tokens exceeds the context of 8')])
def test_a_language_model_refuses_what_it_has_no_place_for(tokens, message):
    decoder = LlamaDecoder(50, 16, 1, 2, context_length=8)
    with pytest.raises(ValueError, match=message):
        decoder(torch.tensor([tokens]))
