import re

import pytest
import torch
from transformers import DetrConfig, DetrForObjectDetection, DetrImageProcessor, ResNetConfig
from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss

from openlab.algorithms.detection.detr import DETR, DETRHead
from openlab.backbones.resnet import ResNet
from openlab.engine.loading import load_weights, match
from openlab.structures.boxes import xyxy_to_cxcywh
from openlab.structures.data_sample import DataSample
from tests.algorithms.detection.parity import FROZEN, make_batch, relative_error, shake

K, Q, D, LAYERS = 5, 12, 32, 3
SIZES = (96, 128), (64, 100)


@pytest.fixture(scope='module')
def pair():
    torch.manual_seed(0)
    theirs = DetrForObjectDetection(DetrConfig(
        backbone_config=ResNetConfig(
            embedding_size=8, hidden_sizes=[16, 32, 64, 128], depths=[1, 2, 1, 1],
            out_features=['stage4']),
        num_labels=K, num_queries=Q, d_model=D, encoder_layers=2, decoder_layers=LAYERS,
        encoder_ffn_dim=48, decoder_ffn_dim=48, encoder_attention_heads=4,
        decoder_attention_heads=4, dropout=0.0)).eval()  # fmt: skip
    shake(theirs.requires_grad_(True))
    with torch.no_grad():  # else every query answers the same
        theirs.model.query_position_embeddings.weight.normal_()
        for name, parameter in theirs.named_parameters():
            if parameter.dim() == 2 and 'query' not in name:
                parameter.mul_(12)
    ours = DETR(
        ResNet(50, num_blocks=(1, 2, 1, 1), base_channels=4, stem_channels=8, norm=FROZEN),
        DETRHead(K, 128, Q, D, 4, 2, LAYERS, 48, dropout=0.0),
    ).eval()
    report = load_weights(ours, theirs.state_dict())
    assert report.complete and not report.unexpected
    return ours, theirs


@pytest.fixture(scope='module')
def batch():
    """Two images, the second smaller and padded, with one and three objects."""
    images, samples, _ = make_batch(*SIZES[0])
    samples[1] = DataSample(boxes=torch.tensor([[10.0, 5, 50, 60]]), labels=torch.tensor([2]))
    for sample, size in zip(samples, SIZES):
        sample.meta['img_shape'] = size
    images[1, :, SIZES[1][0]:] = 0
    images[1, :, :, SIZES[1][1]:] = 0
    mask = torch.zeros(2, *SIZES[0], dtype=torch.long)
    for place, (height, width) in zip(mask, SIZES):
        place[:height, :width] = 1
    targets = [
        {'class_labels': s.labels, 'boxes': xyxy_to_cxcywh(s.boxes) / torch.tensor([w, h, w, h])}
        for s, (h, w) in zip(samples, SIZES)]
    return images, samples, mask, targets


def their_outputs(theirs, images, mask):
    """Logits and boxes of all layers.

    Its own way to auxiliary losses sends the final norm's result on to the next layer, unlike the
    paper and unlike itself without them; so the layers' results are taken from outside.
    """
    outputs = theirs(images, pixel_mask=mask, output_hidden_states=True)
    *hidden, last = outputs.decoder_hidden_states[1:]  # the last one is behind the norm
    answer = torch.stack([*map(theirs.model.decoder.layernorm, hidden), last])
    return outputs, theirs.class_labels_classifier(answer), theirs.bbox_predictor(answer).sigmoid()


def their_losses(theirs, images, mask, targets):
    _, logits, boxes = their_outputs(theirs, images, mask)
    theirs.config.auxiliary_loss = True
    total, parts, _ = ForObjectDetectionLoss(
        logits[-1], targets, 'cpu', boxes[-1], theirs.config, logits, boxes)
    theirs.config.auxiliary_loss = False
    return total, parts


def test_raw_outputs_equal_transformers(pair, batch):
    ours, theirs = pair
    images, samples, mask, _ = batch
    with torch.no_grad():
        actual = ours(images, samples)
        expected, logits, boxes = their_outputs(theirs, images, mask)
    assert relative_error(actual.logits[-1], expected.logits) <= 1e-4
    assert relative_error(actual.boxes[-1], expected.pred_boxes) <= 1e-4
    assert relative_error(actual.logits, logits) <= 1e-4
    assert relative_error(actual.boxes, boxes) <= 1e-4
    assert actual.boxes[-1].std(dim=1).min() > 1e-3  # queries differ, so that pairing means much


def test_padding_changes_nothing_but_what_is_seen_of_it(pair, batch):
    ours, _ = pair
    images, samples, _, _ = batch
    with torch.no_grad():
        told = ours(images, samples)
        untold = ours(images)
    assert torch.allclose(told.logits[:, 0], untold.logits[:, 0], atol=1e-5)
    assert not torch.allclose(told.logits[:, 1], untold.logits[:, 1], atol=1e-3)


def test_losses_of_all_layers_equal_transformers(pair, batch):
    ours, theirs = pair
    images, samples, mask, targets = batch
    losses = ours(images, samples, mode='loss')
    total, parts = their_losses(theirs, images, mask, targets)
    assert sum(losses.values()).item() == pytest.approx(total.item(), rel=1e-4)
    assert len(losses) == 3 * LAYERS
    for ending in ('', '_0', '_1'):
        for name, other, weight in (('cls', 'ce', 1), ('box', 'bbox', 5), ('giou', 'giou', 2)):
            actual = losses[f'loss_{name}{ending}'].item()
            assert actual == pytest.approx(weight * parts[f'loss_{other}{ending}'].item(), rel=1e-4)


def test_gradients_equal_transformers(pair, batch):
    ours, theirs = pair
    images, samples, mask, targets = batch
    ours.zero_grad()
    sum(ours(images, samples, mode='loss').values()).backward()
    theirs.zero_grad()
    their_losses(theirs, images, mask, targets)[0].backward()
    for mine, other in (
        (ours.head.box_out[0], theirs.bbox_predictor.layers[0]),
        (ours.head.query_position, theirs.model.query_position_embeddings),
        (ours.head.decoder[1].cross_attn.k_proj,
         theirs.model.decoder.layers[1].encoder_attn.k_proj),
        (ours.head.encoder[0].attn.q_proj, theirs.model.encoder.layers[0].self_attn.q_proj),
        (ours.head.input_proj, theirs.model.input_projection),
        (ours.backbone.stages[1][0].conv1.conv,
         theirs.model.backbone.model.encoder.stages[1].layers[0].layer[0].convolution),
    ):  # fmt: skip
        assert other.weight.grad.abs().max() > 0
        assert relative_error(mine.weight.grad, other.weight.grad) <= 1e-3


def test_detections_equal_transformers(pair, batch):
    ours, theirs = pair
    images, samples, mask, _ = batch
    with torch.no_grad():
        predictions = ours(images, samples, mode='predict')
        outputs = theirs(images, pixel_mask=mask)
    expected = DetrImageProcessor().post_process_object_detection(
        outputs, threshold=0.0, target_sizes=list(SIZES))
    for mine, other, sample in zip(predictions, expected, samples):
        order = other['scores'].argsort(descending=True, stable=True)
        torch.testing.assert_close(mine.scores, other['scores'][order], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(mine.boxes, other['boxes'][order], rtol=1e-3, atol=1e-2)
        assert torch.equal(mine.labels, other['labels'][order])
        assert mine.meta == sample.meta


def test_low_scores_are_left_out_when_asked(pair, batch):
    ours, _ = pair
    images, samples, _, _ = batch
    with torch.no_grad():
        every = ours(images, samples, mode='predict')[0]
        ours.head.min_score = every.scores[4].item()
        some = ours(images, samples, mode='predict')[0]
    ours.head.min_score = 0.0
    assert len(every) == Q and len(some) == 5
    assert torch.equal(some.boxes, every.boxes[:5])


def test_images_without_objects_teach_no_object(pair):
    ours, _ = pair
    empty = DataSample(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    losses = ours(torch.rand(1, 3, 64, 64), [empty], mode='loss')
    assert losses['loss_cls'] > 0
    assert losses['loss_box'] == 0 and losses['loss_giou'] == 0
    sum(losses.values()).backward()


def test_unknown_loss_weights_are_refused():
    with pytest.raises(ValueError, match='cls, box and giou'):
        DETRHead(K, 8, loss_weights={'iou': 1})


def test_older_files_with_timms_names_load_too(pair):
    ours, theirs = pair
    old = {}
    for name, tensor in theirs.state_dict().items():
        if '.backbone.' not in name:
            old[name.replace('.o_proj.', '.out_proj.').replace('.mlp.fc', '.fc')] = tensor
    for name, tensor in ours.backbone.state_dict().items():
        for pattern, plain in (
            (r'^stem\.0\.conv', 'conv1'), (r'^stem\.0\.norm', 'bn1'),
            (r'conv(\d)\.conv', r'conv\1'), (r'conv(\d)\.norm', r'bn\1'),
            (r'shortcut\.conv', 'downsample.0'), (r'shortcut\.norm', 'downsample.1'),
        ):  # fmt: skip
            name = re.sub(pattern, plain, name)
        name = re.sub(r'^stages\.(\d)', lambda m: f'layer{int(m[1]) + 1}', name)
        old[f'model.backbone.conv_encoder.model.{name}'] = tensor
    report = match(ours, old)[0]
    assert report.complete and not report.unexpected
    assert report.key_map == "key map 'transformers'"
