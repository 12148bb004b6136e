from types import SimpleNamespace

import pytest
import torch
from transformers import (
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessor,
    ResNetConfig,
    SwinConfig,
)

from openlab.algorithms.segmentation.mask2former import (
    Mask2Former,
    Mask2FormerHead,
    MaskOutputs,
    PixelDecoder,
    SegmentLimits,
    panoptic_prediction,
    sample_points,
    segments_of,
)
from openlab.backbones.resnet import ResNet
from openlab.backbones.swin import SwinTransformer
from openlab.engine.loading import load_weights
from openlab.structures.data_sample import DataSample
from tests.algorithms.detection.parity import FROZEN, relative_error, shake

K, Q, D, LAYERS = 4, 9, 32, 4
HEIGHT, WIDTH = 64, 96


@pytest.fixture(scope='module')
def pair():
    torch.manual_seed(0)
    theirs = Mask2FormerForUniversalSegmentation(Mask2FormerConfig(
        backbone_config=ResNetConfig(
            embedding_size=8, hidden_sizes=[16, 32, 64, 128], depths=[1, 1, 1, 1],
            out_features=['stage1', 'stage2', 'stage3', 'stage4']),
        num_labels=K, num_queries=Q, feature_size=D, mask_feature_size=D, hidden_dim=D,
        encoder_feedforward_dim=48, dim_feedforward=40, encoder_layers=2,
        decoder_layers=LAYERS + 1, num_attention_heads=4, train_num_points=150)).eval()  # fmt: skip
    shake(theirs)
    theirs.criterion.empty_weight.copy_(torch.tensor([1.0] * K + [0.1]))
    with torch.no_grad():  # at first offsets and points' weights do not depend on what is seen
        for layer in theirs.model.pixel_level_module.decoder.encoder.layers:
            layer.self_attn.sampling_offsets.weight.normal_(std=0.3)
            layer.self_attn.attention_weights.weight.normal_(std=0.3)
    ours = Mask2Former(
        ResNet(50, num_blocks=(1, 1, 1, 1), base_channels=4, stem_channels=8, norm=FROZEN,
               out_stages=(2, 3, 4, 5)),
        PixelDecoder((16, 32, 64, 128), D, D, 4, 2, hidden_dim=48),
        Mask2FormerHead(K, (D, D, D, D), 'instance', num_queries=Q, embed_dim=D, num_heads=4,
                        num_layers=LAYERS, hidden_dim=40, num_points=150),
    ).eval()
    report = load_weights(ours, theirs.state_dict())
    assert report.complete and not report.unexpected
    return ours, theirs


@pytest.fixture(scope='module')
def batch():
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, HEIGHT, WIDTH, generator=generator)
    masks = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.bool)
    masks[0, 5:30, 10:60] = True
    masks[1, 30:60, 40:90] = True
    masks[2, :, :20] = True
    return images, [
        DataSample(meta={'img_id': 0}, masks=masks[:2], labels=torch.tensor([1, 3])),
        DataSample(meta={'img_id': 1}, masks=masks[2:], labels=torch.tensor([0])),
    ]


def their_forward(theirs, images, samples):
    torch.manual_seed(5)
    return theirs(images, mask_labels=[s.masks.float() for s in samples],
                  class_labels=[s.labels for s in samples], output_auxiliary_logits=True)


def our_losses(ours, images, samples):
    torch.manual_seed(5)  # both draw their points in the same order
    return ours(images, samples, mode='loss')


def test_raw_outputs_of_all_layers_equal_transformers(pair, batch):
    ours, theirs = pair
    with torch.no_grad():
        actual = ours(batch[0])
        expected = theirs(batch[0], output_auxiliary_logits=True)
    assert len(actual.logits) == len(actual.masks) == LAYERS + 1
    every = [*expected.auxiliary_logits, {
        'class_queries_logits': expected.class_queries_logits,
        'masks_queries_logits': expected.masks_queries_logits}]
    for logits, masks, other in zip(actual.logits, actual.masks, every):
        assert relative_error(logits, other['class_queries_logits']) <= 1e-4
        assert relative_error(masks, other['masks_queries_logits']) <= 1e-4
    assert (actual.masks[-1] > 0).float().mean(dim=(-1, -2)).std() > 0.01  # queries differ


def test_raw_outputs_on_swin_equal_transformers(batch):
    torch.manual_seed(0)
    swin = {'embed_dim': 8, 'num_heads': (2, 2, 4, 4)}
    theirs = Mask2FormerForUniversalSegmentation(Mask2FormerConfig(
        backbone_config=SwinConfig(
            image_size=128, depths=[1, 1, 1, 1], window_size=4, **swin,
            out_features=['stage1', 'stage2', 'stage3', 'stage4']),
        num_labels=K, num_queries=Q, feature_size=D, mask_feature_size=D, hidden_dim=D,
        encoder_feedforward_dim=48, dim_feedforward=40, encoder_layers=2,
        decoder_layers=LAYERS + 1, num_attention_heads=4)).eval()
    shake(theirs)
    ours = Mask2Former(
        SwinTransformer(**swin, num_blocks=(1, 1, 1, 1), window_size=4, out_stages=(2, 3, 4, 5)),
        PixelDecoder((8, 16, 32, 64), D, D, 4, 2, hidden_dim=48),
        Mask2FormerHead(K, (D, D, D, D), 'instance', num_queries=Q, embed_dim=D, num_heads=4,
                        num_layers=LAYERS, hidden_dim=40)).eval()
    report = load_weights(ours, theirs.state_dict())
    assert report.complete and not report.unexpected
    images = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        actual, expected = ours(images), theirs(images)
    assert relative_error(actual.logits[-1], expected.class_queries_logits) <= 1e-4
    assert relative_error(actual.masks[-1], expected.masks_queries_logits) <= 1e-4


def test_losses_of_all_layers_equal_transformers(pair, batch):
    ours, theirs = pair
    losses = our_losses(ours, *batch)
    outputs = theirs(batch[0], output_auxiliary_logits=True)
    torch.manual_seed(5)
    parts = theirs.get_loss_dict(
        outputs.masks_queries_logits, outputs.class_queries_logits,
        [s.masks.float() for s in batch[1]], [s.labels for s in batch[1]],
        outputs.auxiliary_logits)
    assert len(losses) == len(parts) == 3 * (LAYERS + 1)
    for name, other in (('cls', 'cross_entropy'), ('mask', 'mask'), ('dice', 'dice')):
        for ending in ('', *(f'_{i}' for i in range(LAYERS))):
            actual, expected = losses[f'loss_{name}{ending}'], parts[f'loss_{other}{ending}']
            assert actual.item() == pytest.approx(expected.item(), rel=1e-4)


def test_gradients_equal_transformers(pair, batch):
    ours, theirs = pair
    ours.zero_grad()
    sum(our_losses(ours, *batch).values()).backward()
    theirs.zero_grad()
    their_forward(theirs, *batch).loss.backward()
    module, decoder = theirs.model.transformer_module, theirs.model.pixel_level_module.decoder
    for mine, other in (
        (ours.head.mask_out[2], module.decoder.mask_predictor.mask_embedder.layers[1].layers[0]),
        (ours.head.query_feat, module.queries_features),
        (ours.head.layers[1].self_attn.k_proj, module.decoder.layers[1].self_attn.k_proj),
        (ours.head.layers[2].cross_attn.proj, module.decoder.layers[2].cross_attn.out_proj),
        (ours.pixel_decoder.layers[0].attn.offsets,
         decoder.encoder.layers[0].self_attn.sampling_offsets),
        (ours.pixel_decoder.lateral[0][0], decoder.adapter_1[0]),
        (ours.backbone.stages[0][0].conv1.conv,
         theirs.model.pixel_level_module.encoder.encoder.stages[0].layers[0].layer[0].convolution),
    ):  # fmt: skip
        assert other.weight.grad.abs().max() > 0
        assert relative_error(mine.weight.grad, other.weight.grad) <= 1e-3


@pytest.fixture(scope='module')
def answers():
    """Raw outputs whose masks are blobs and whose classes are fairly sure, on 384 pixels.

    transformers enlarges masks to 384 x 384, whatever the image.
    """
    generator = torch.Generator().manual_seed(3)
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing='ij')
    center = torch.rand(2, Q, 2, 1, 1, generator=generator) * 96
    radius = 8 + 18 * torch.rand(2, Q, 1, 1, generator=generator)
    masks = (radius - ((x - center[:, :, 0]) ** 2 + (y - center[:, :, 1]) ** 2).sqrt()) / 3
    logits = torch.randn(2, Q, K + 1, generator=generator) * 3
    logits[..., -1] -= 1
    outputs = MaskOutputs((logits,), (masks,), (384, 384))
    theirs = SimpleNamespace(class_queries_logits=logits, masks_queries_logits=masks)
    samples = [DataSample(meta={'img_id': i}) for i in range(2)]
    return outputs, theirs, samples


def make_head(**arguments):
    return Mask2FormerHead(K, (D, D), num_queries=Q, embed_dim=D, num_layers=1, **arguments)


def test_panoptic_maps_equal_transformers(answers):
    outputs, theirs, samples = answers
    head = make_head(limits=SegmentLimits(score=0.5, overlap=0.6, weighted=True))
    expected = Mask2FormerImageProcessor().post_process_panoptic_segmentation(
        theirs, threshold=0.5, overlap_mask_area_threshold=0.6, label_ids_to_fuse=set(),
        target_sizes=[(384, 384)] * 2)
    for mine, other in zip(head.predict(outputs, samples), expected):
        assert len(mine.segments) >= 3
        assert torch.equal(mine.panoptic_map, other['segmentation'].long())
        assert [(s['id'], s['label']) for s in mine.segments] == [
            (s['id'], s['label_id']) for s in other['segments_info']]
        assert [s['score'] for s in mine.segments] == pytest.approx(
            [s['score'] for s in other['segments_info']], abs=1e-5)


def test_instances_equal_transformers(answers):
    outputs, theirs, samples = answers
    head = make_head(task='instance', limits=SegmentLimits(detections=Q))
    expected = Mask2FormerImageProcessor().post_process_instance_segmentation(
        theirs, threshold=0.0, return_binary_maps=True)
    for mine, other in zip(head.predict(outputs, samples), expected):
        scores = torch.tensor([s['score'] for s in other['segments_info']])
        order = scores.argsort(descending=True, stable=True)
        labels = torch.tensor([s['label_id'] for s in other['segments_info']])
        assert len(mine.labels) == len(labels) > 5
        torch.testing.assert_close(mine.scores, scores[order], rtol=1e-4, atol=2e-6)
        assert torch.equal(mine.labels, labels[order])
        assert torch.equal(mine.masks, other['segmentation'][order].bool())
        rows = mine.masks[0].any(1).nonzero()
        assert mine.boxes[0, 1] == rows.min() and mine.boxes[0, 3] == rows.max() + 1


def test_semantic_maps_equal_transformers(answers):
    outputs, theirs, samples = answers
    expected = Mask2FormerImageProcessor().post_process_semantic_segmentation(theirs)
    for mine, other in zip(make_head(task='semantic').predict(outputs, samples), expected):
        assert (mine.semantic_map == other).float().mean() > 0.9999


def test_one_head_predicts_all_three_and_cuts_off_padding(answers):
    outputs, _, _ = answers
    head = make_head(predicts=('panoptic', 'instance', 'semantic'))
    sample = DataSample(meta={'img_shape': (300, 350)})
    prediction = head.predict(outputs, [sample, sample])[0].validate(K)
    assert prediction.panoptic_map.shape == prediction.semantic_map.shape == (300, 350)
    assert prediction.masks.shape[1:] == (300, 350)
    assert prediction.meta == sample.meta


def test_stuff_makes_one_segment_and_no_instance():
    probs = torch.tensor([[0.95, 0.0, 0.05], [0.95, 0.0, 0.05], [0.0, 0.9, 0.1]])
    masks = torch.full((3, 2, 6), -8.0)
    masks[0, :, :2] = masks[1, :, 2:4] = masks[2, :, 4:] = 8
    found = panoptic_prediction(probs, masks, stuff=(0,), limits=SegmentLimits())
    assert found['panoptic_map'].tolist() == [[1, 1, 1, 1, 2, 2]] * 2
    assert [(s['id'], s['label']) for s in found['segments']] == [(1, 0), (2, 1)]
    apart = panoptic_prediction(probs, masks, stuff=(), limits=SegmentLimits())
    assert apart['panoptic_map'].tolist() == [[1, 1, 2, 2, 3, 3]] * 2


def test_unsure_pixels_and_masks_that_lose_most_pixels_stay_empty():
    probs = torch.tensor([[0.99, 0.01], [0.9, 0.1]])
    masks = torch.full((2, 1, 4), -1.0)
    masks[0, :, :3] = 8
    masks[1, :, 1:3] = 2  # inside the surer mask: keeps nothing of itself
    found = panoptic_prediction(probs, masks, (), SegmentLimits())
    assert found['panoptic_map'].tolist() == [[1, 1, 1, 0]]
    nothing = panoptic_prediction(probs, masks, (), SegmentLimits(score=0.995))
    assert not nothing['panoptic_map'].any() and nothing['segments'] == []


def test_the_three_tasks_read_their_masks_from_one_sample():
    sample = DataSample(
        masks=torch.tensor([[[1, 0], [0, 0]], [[0, 1], [0, 0]]]).bool(),
        labels=torch.tensor([4, 4]), is_crowd=torch.tensor([False, True]),
        semantic_map=torch.tensor([[5, 5], [0, 255]]),
        panoptic_map=torch.tensor([[7, 9], [8, 0]]),
        segments=[{'id': 7, 'label': 4}, {'id': 9, 'label': 4, 'is_crowd': True},
                  {'id': 8, 'label': 1}, {'id': 3, 'label': 2}])
    masks, labels = segments_of(sample, 'instance', (2, 3))
    assert masks.tolist() == [[[True, False, False], [False, False, False]]]
    assert labels.tolist() == [4]
    masks, labels = segments_of(sample, 'semantic', (2, 2))
    assert labels.tolist() == [0, 5] and masks.sum((1, 2)).tolist() == [1, 2]
    masks, labels = segments_of(sample, 'panoptic', (2, 2))  # no crowd, nothing cut off
    assert labels.tolist() == [4, 1]
    assert masks.flatten(1).tolist() == [[True, False, False, False], [False, False, True, False]]


@pytest.mark.parametrize('task', ['panoptic', 'instance', 'semantic'])
def test_a_sample_without_what_the_task_needs_is_refused(task):
    with pytest.raises(ValueError, match=r'sample a\.png lacks'):
        segments_of(DataSample(meta={'img_path': 'a.png'}), task, (2, 2))


def test_images_without_masks_teach_no_object(pair):
    ours, _ = pair
    empty = DataSample(masks=torch.zeros(0, 64, 64).bool(), labels=torch.zeros(0).long())
    losses = ours(torch.rand(1, 3, 64, 64), [empty], mode='loss')
    assert losses['loss_cls'] > 0 and losses['loss_mask'] == losses['loss_dice'] == 0
    sum(losses.values()).backward()


def test_points_are_looked_up_between_pixels():
    maps = torch.tensor([[[0.0, 1.0], [2.0, 3.0]], [[10.0, 10.0], [10.0, 10.0]]])
    shared = sample_points(maps, torch.tensor([[[0.5, 0.5], [0.25, 0.75]]]))
    assert shared.tolist() == [[1.5, 2.0], [10.0, 10.0]]
    own = sample_points(maps, torch.tensor([[[0.75, 0.25]], [[0.0, 0.0]]]))
    assert own.tolist() == [[1.0], [2.5]]  # beyond the border all is zero


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'task': 'boxes'}, 'task must be one of'), ({'stuff': (4,)}, 'stuff must be labels'),
    ({'loss_weights': {'box': 1}}, 'cls, mask and dice')])
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_head(**arguments)


def test_a_backbone_with_too_few_maps_is_refused():
    with pytest.raises(ValueError, match='out_stages'):
        PixelDecoder((8, 16, 32), D)
