"""Every shipped config, shrunk: builds, learns, predicts, exports, and comes back from disk.

To plug in another task, give its algorithm a row in ``TASKS`` (a batch, and what a good prediction
is), and each part that is too large a row in ``TINY`` (arguments that make it small).
"""

import copy
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.utils._pytree import tree_leaves

from openlab.config import check_config, load_config
from openlab.config.build import build
from openlab.data.datasets.multi_image import MultiImageDataset
from openlab.data.transforms.base import Compose
from openlab.engine.loading import load_weights
from openlab.registry import METRICS, TRANSFORMS
from openlab.structures.boxes import box_iou
from openlab.structures.data_sample import DataSample

ROOT = Path(__file__).resolve().parents[1]
ALL_CONFIGS = sorted(
    str(p.relative_to(ROOT)) for p in (ROOT / 'configs').rglob('*.py') if '_base_' not in p.parts)
UNTRAINED = [config for config in ALL_CONFIGS if config.endswith('_zero_shot.py')]
CONFIGS = [config for config in ALL_CONFIGS if config not in UNTRAINED]
SIZE, NUM_CLASSES, VOCAB, LENGTH = 32, 5, 64, 16
SCENE = 64  # pixels of images with objects: the deepest maps must not be a single place

ALL_BOXES = {'type': 'DetectionLimits', 'score': 0.0, 'candidates': 50}
FEW_PROPOSALS = {'type': 'ProposalLimits', 'candidates': 50, 'proposals': 30}

# Arguments that are small wherever they stand, and those that make one class small.
ANYWHERE = {'num_classes': NUM_CLASSES, 'vocab_size': VOCAB, 'context_length': LENGTH}
TINY: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    'ResNet': lambda cfg: {
        'base_channels': 8, 'num_blocks': [1] * len(cfg.get('num_blocks', range(4))),
        **({'groups': 2, 'width_per_group': 64} if 'groups' in cfg else {}),
        **({'se_reduction': 4} if 'se_reduction' in cfg else {})},
    'VGG': lambda cfg: {'depth': 11, 'width': 0.125},
    'LinearHead': lambda cfg: {'dropout': 0.0} if 'dropout' in cfg else {},
    'MLPHead': lambda cfg: {'hidden_channels': (32,), 'grid': 1, 'dropout': 0.0},
    'EfficientNet': lambda cfg: {
        'size': {'l': 'lite0', 'v': 'v2_b0'}.get(cfg['size'][0], 'b0'), 'width': 0.25,
        'depth': 0.1, 'last_channels': 64, 'drop_path': 0.0},
    'MobileNetV3': lambda cfg: {'width': 0.25},
    'RegNet': lambda cfg: {
        'size': cfg['size'][0] + '_400mf', 'depth': 6, 'base_channels': 8, 'slope': 10.0,
        'step': 2.0, 'group_width': 8},
    'DenseNet': lambda cfg: {
        'depth': 121, 'num_layers': (1, 1, 1, 1), 'growth': 8, 'stem_channels': 16},
    'ConvNeXt': lambda cfg: {
        'size': 'tiny', 'base_channels': 8, 'num_blocks': (1, 1, 1, 1), 'drop_path': 0.0},
    'RepVGG': lambda cfg: {
        'size': cfg['size'] if cfg['size'].endswith('se') else 'a0', 'num_blocks': (1, 1, 2, 1),
        'width': 0.25},
    'Res2Net': lambda cfg: {
        'depth': 50, 'num_blocks': (1, 1, 1, 1), 'base_channels': 8, 'slice_width': 4},
    'ResNeSt': lambda cfg: {
        'num_blocks': (1, 1, 1, 1), 'base_channels': 8, 'stem_channels': 8,
        **({'groups': 2, 'width_per_group': 32} if 'groups' in cfg else {})},
    'HRNet': lambda cfg: {'base_channels': 4, 'bottleneck_width': 4, 'num_modules': (1, 1, 1),
                          'num_bottlenecks': 1, 'num_blocks': 1},
    'HRMerge': lambda cfg: {'widths': (4, 4, 8, 8), 'out_channels': 32},
    'DarkNet': lambda cfg: {'num_blocks': (1, 1, 1, 1, 1), 'base_channels': 4},
    'CSPNet': lambda cfg: {
        'num_blocks': (1,) * (5 if cfg['size'] == 'darknet53' else 4),
        'width': 0.25 if cfg['size'] == 'resnext50' else 0.125},
    'MobileNetV4': lambda cfg: {
        'width': 0.25, 'drop_path': 0.0,
        'num_blocks': (1, 1, 5 if 'hybrid' in cfg['size'] else 1, 1)},
    'CrossEntropyLoss': lambda cfg: (
        {'class_weight': cfg['class_weight'][:NUM_CLASSES]} if cfg.get('class_weight') else {}),
    'VAN': lambda cfg: {
        'size': 'b0', 'channels': (8, 16, 24, 32), 'num_blocks': (1, 1, 1, 1), 'drop_path': 0.0},
    'InceptionV3': lambda cfg: {'width': 0.0625, 'with_padding': True},
    'PoolFormer': lambda cfg: {
        'size': 's12', 'num_blocks': (1, 1, 1, 1), 'channels': (8, 16, 24, 32),
        'drop_path': 0.0},
    'ShuffleNetV2': lambda cfg: {'num_blocks': (1, 1, 2), 'width': 0.5, 'last_channels': 64},
    'MobileNetV2': lambda cfg: {'width': 0.25, 'last_channels': 32},
    'Projector': lambda cfg: {'hidden_channels': 32, 'out_channels': 16},
    'DINOHead': lambda cfg: {'num_prototypes': 24, 'hidden_channels': 32, 'bottleneck': 16},
    # at the 1.0 of ResNet-50's recipe, the lowest loss there is lies above half of the first
    'MoCoV3': lambda cfg: {'temperature': 0.2},
    'MAEDecoder': lambda cfg: {'embed_dim': 32, 'depth': 1, 'num_heads': 2},
    'VisionTransformer': lambda cfg: {
        'embed_dim': 32, 'depth': 2, 'num_heads': 2, 'image_size': SIZE, 'patch_size': 8},
    'SwinTransformer': lambda cfg: {
        'size': 'tiny', 'embed_dim': 16, 'num_blocks': (1, 2), 'num_heads': (2, 2),
        'window_size': 4, 'drop_path': 0.0, 'out_stages': (3,)},
    'DETRHead': lambda cfg: {
        'embed_dim': 32, 'num_heads': 2, 'num_encoder_layers': 1, 'num_decoder_layers': 2,
        'hidden_dim': 48, 'num_queries': 6, 'dropout': 0.0},
    'PixelDecoder': lambda cfg: {
        'embed_dim': 32, 'mask_dim': 32, 'num_heads': 2, 'num_layers': 1, 'hidden_dim': 48},
    'Mask2FormerHead': lambda cfg: {
        'embed_dim': 32, 'num_heads': 2, 'num_layers': 3, 'hidden_dim': 48, 'num_queries': 6,
        'num_points': 128, 'stuff': [4] if cfg.get('stuff') else []},
    'PVTv2': lambda cfg: {
        'embed_dims': (16, 32), 'num_blocks': (1, 1), 'num_heads': (1, 2), 'mlp_ratios': (2, 2),
        'reductions': (2, 1), 'out_stages': (3,)},
    'Twins': lambda cfg: {
        'embed_dims': (16, 32), 'num_blocks': (2, 1), 'num_heads': (1, 2), 'mlp_ratios': (2, 2),
        'reductions': (2, 2), 'window_size': 4, 'drop_path': 0.0, 'out_stages': (3,)},
    'Hiera': lambda cfg: {
        'size': 'tiny', 'embed_dim': 16, 'num_blocks': (1, 2), 'num_heads': 1,
        'image_size': SIZE, 'drop_path': 0.0, 'out_stages': (3,)},
    'TinyViT': lambda cfg: {
        'size': '5m', 'window_size': 2, 'channels': (16, 24, 32, 48),
        'num_blocks': (1, 1, 1, 1), 'num_heads': (1, 2, 2, 2), 'drop_path': 0.0,
        'out_stages': (4,)},
    'LeViT': lambda cfg: {
        'size': '128', 'channels': (32, 48, 64), 'key_dim': 8, 'num_heads': (2, 2, 2),
        'num_blocks': (1, 0, 0), 'image_size': SIZE, 'drop_path': 0.0, 'out_stages': (5,)},
    'EfficientFormer': lambda cfg: {
        'size': 'l1', 'channels': (8, 16, 24, 32), 'num_blocks': (1, 1, 1, 2),
        'num_attending': 1, 'image_size': SIZE, 'layer_scale': 0.1, 'drop_path': 0.0},
    'MViT': lambda cfg: {
        'size': 'large' if cfg['size'] == 'large' else 'tiny', 'embed_dim': 16,
        'num_blocks': (1, 2), 'num_heads': 1, 'image_size': SIZE, 'drop_path': 0.0,
        'out_stages': (3,)},
    'FastViT': lambda cfg: {
        'size': 'sa12' if cfg['size'].startswith(('sa', 'ma')) else 't8',
        'channels': (8, 16, 32, 64), 'num_blocks': (1, 1, 1, 1), 'drop_path': 0.0},
    'BEiT': lambda cfg: {
        'embed_dim': 32, 'depth': 2, 'num_heads': 2, 'image_size': SIZE, 'patch_size': 8},
    'EVA02': lambda cfg: {
        'embed_dim': 32, 'depth': 2, 'num_heads': 2, 'image_size': SIZE, 'patch_size': 8},
    'MLPMixer': lambda cfg: {
        'embed_dim': 32, 'depth': 2, 'image_size': SIZE, 'patch_size': 8},
    'MarginHead': lambda cfg: {'embed_dim': 16, 'scale': 16.0},
    # The class that a random teacher is surest of teaches nothing; its soft targets hardly disturb.
    'HardTargetLoss': lambda cfg: {'type': 'SoftTargetLoss'},
    'FeaturePair': lambda cfg: {'in_channels': 32, 'out_channels': 128},
    'TimmBackbone': lambda cfg: {'name': 'test_resnet'},
    # Stage 4: the statistics of batch norms over one pixel (stage 5) are too far from unbiased.
    'TorchvisionBackbone': lambda cfg: {
        'name': 'mobilenet_v2', 'out_stages': (4,), 'options': {'width_mult': 0.25}},
    'TransformersBackbone': lambda cfg: {'config': {
        'model_type': 'resnet', 'embedding_size': 8, 'hidden_sizes': (8, 16, 24, 32),
        'depths': (1, 1, 1, 1), 'layer_type': 'basic'}},
    # Beside random weights that stay as they are, little could be learned.
    'LoRA': lambda cfg: {'rank': 4, 'trainable': ['embedding', 'norm']},
    # with one channel to a group, group norm would let nothing through from maps of one pixel
    'FPN': lambda cfg: {'out_channels': 48},
    'RetinaHead': lambda cfg: {'num_convs': 1, 'limits': ALL_BOXES,
                               'norm_groups': 4 if cfg.get('norm_groups') else None},
    'FCOSHead': lambda cfg: {'num_convs': 1, 'limits': ALL_BOXES},
    'RPNHead': lambda cfg: {'train_limits': FEW_PROPOSALS, 'test_limits': FEW_PROPOSALS},
    'BoxHead': lambda cfg: {'hidden': 96},
    'MaskHead': lambda cfg: {'hidden': 16, 'num_convs': 1},
    'LlamaDecoder': lambda cfg: {
        'embed_dim': 32, 'num_layers': 2, 'num_heads': 2, 'num_kv_heads': 1, 'hidden_dim': 64},
    'MixTransformer': lambda cfg: {
        'size': 'b0', 'embed_dims': [16, 16, 24, 32], 'num_blocks': [1] * 4,
        'num_heads': [1, 2, 2, 2], 'reductions': [4, 2, 1, 1], 'drop_path': 0.0},
    **dict.fromkeys(('DeepLabV3Head', 'DeepLabV3PlusHead', 'SegFormerHead', 'FCNHead'),
                    lambda cfg: {'channels': 16, 'dropout': 0.0}),
}

# By backbone and its output. At SIZE the last map may be one pixel, whose local mean is itself, so
# that mixing does nothing there; nor is there another place to attend to. And a class token is
# nowhere: places of the last block do not matter to it. Tests of the backbones compare these
# gradients with those of timm on larger maps.
CONSTANT = {
    ('PoolFormer', None): r'^backbone\.stages\.3\.0\.(scale1$|norm1\.)',
    ('EfficientFormer', None):
        r'^backbone\.stages\.3\.blocks\.(0\.scale1$|2\.attn\.bias\.table$)',
    # Attention over one key does not depend on queries and keys.
    ('MobileNetV4', None): r'^backbone\..*\.(query|key)\.',
    ('PVTv2', None): r'^backbone\.stages\.3\..*\.attn\.[qk]\.',
    ('MViT', 'class_token'):
        r'^backbone\.blocks\.2\.attn\.(pool_q\.conv\.|(row|column)_offsets$)'}


@dataclass
class Task:
    """How to test the configs of one algorithm.

    Attributes:
        batch: a collated batch of ``count`` items with truth, as it comes from a loader.
        check: asserts that a prediction is well-formed.
        learned: whether a prediction shows that its (memorised) truth was learned; ``None`` where
            there is no truth, and the loss must fall to half instead.
        raw: what a dataset hands to the pipeline besides the image.
        packed: asserts that this truth came through the pipeline.
        constant: names of parameters that by design get no gradient (a regular expression).
        all_learned: the same as ``learned`` for all items together, where one alone cannot tell.
    """

    batch: Callable[[int], dict[str, Any]]
    check: Callable[[DataSample, DataSample], None]
    learned: Callable[[DataSample, DataSample], bool] | None
    raw: Callable[[Path], dict[str, Any]] = lambda folder: {'label': 3}
    packed: Callable[[DataSample], bool] = lambda sample: bool(sample.label == 3)
    constant: str = '^$'
    all_learned: Callable[[list[DataSample], list[DataSample]], bool] | None = None


def image_batch(count):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    return {'inputs': images,
            'samples': [DataSample(meta={'img_id': i}, label=torch.tensor(i % NUM_CLASSES))
                        for i in range(count)]}


def check_classification(prediction, truth):
    assert prediction.meta == truth.meta
    assert prediction.label_probs.shape == (NUM_CLASSES,)
    assert prediction.label == prediction.label_probs.argmax()
    # They sum to 1 where classes exclude one another; with binary cross entropy they need not.
    assert ((prediction.label_probs > 0) & (prediction.label_probs < 1)).all()


def text_batch(count):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(VOCAB, (count, LENGTH + 1), generator=generator)
    return {'inputs': tokens[:, :-1],
            'samples': [DataSample(meta={'index': i}, tokens=t[:-1], target_tokens=t[1:],
                                   document_ids=torch.zeros(LENGTH, dtype=torch.int64))
                        for i, t in enumerate(tokens)]}


def check_text(prediction, truth):
    assert prediction.meta == truth.meta
    assert prediction.tokens.shape == truth.target_tokens.shape
    assert prediction.tokens.min() >= 0 and prediction.tokens.max() < VOCAB
    assert prediction.extra['num_tokens'] == LENGTH


def scene_batch(count):
    """One bright rectangle on noise in each image: object, thing and the rest as stuff."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(64, (count, 3, SCENE, SCENE), dtype=torch.uint8, generator=generator)
    samples = []
    for i in range(count):
        label, x, y = i % (NUM_CLASSES - 1), 4 + 24 * (i % 2), 4 + 16 * (i // 2 % 2)
        mask = torch.zeros(1, SCENE, SCENE, dtype=torch.bool)
        mask[0, y:y + 32, x:x + 28] = True
        images[i, :, mask[0]] = torch.tensor([[80 + 40 * label], [200], [240 - 40 * label]],
                                             dtype=torch.uint8)
        samples.append(DataSample(
            meta={'img_id': i, 'img_shape': (SCENE, SCENE), 'ori_shape': (SCENE, SCENE)},
            boxes=torch.tensor([[x, y, x + 28.0, y + 32]]), labels=torch.tensor([label]),
            is_crowd=torch.tensor([False]), masks=mask,
            semantic_map=torch.where(mask[0], label, NUM_CLASSES - 1),
            panoptic_map=torch.where(mask[0], 1, 2),
            segments=[{'id': 1, 'label': label, 'is_thing': True, 'is_crowd': False},
                      {'id': 2, 'label': NUM_CLASSES - 1, 'is_thing': False, 'is_crowd': False}]))
    return {'inputs': images, 'samples': samples}


def raw_objects(folder):
    corners = [4.0, 4, 30, 4, 30, 28, 4, 28]
    return {'boxes': [[4.0, 4, 30, 28]], 'labels': [3], 'is_crowd': [False],
            'segmentation': [[corners]]}


def raw_segments(folder):
    colours = np.zeros((40, 48, 3), dtype=np.uint8)
    colours[:20, :, 2] = 7  # OpenCV writes blue first: the id is that of red
    cv2.imwrite(str(folder / 'panoptic.png'), colours)
    thing = {'id': 7, 'label': 3, 'is_thing': True, 'is_crowd': False}
    return {'panoptic_path': str(folder / 'panoptic.png'), 'segments_info': [thing]}


def check_detection(prediction, truth):
    assert prediction.meta == truth.meta
    prediction.validate(NUM_CLASSES)
    assert prediction.boxes.isfinite().all() and len(prediction) > 0
    assert (prediction.scores.diff() <= 0).all()


def found_box(prediction, truth):
    if not len(prediction):
        return False
    best = prediction.scores.argmax()
    overlap = box_iou(prediction.boxes[best][None], truth.boxes).item()
    return overlap > 0.5 and bool(prediction.labels[best] == truth.labels[0])


def came_with_a_box(sample):
    return sample.labels.tolist() == [3] and sample.boxes.shape == (1, 4)


def check_masked_detection(prediction, truth):
    check_detection(prediction, truth)
    assert prediction.masks.shape == (len(prediction.boxes), SCENE, SCENE)


def found_box_and_mask(prediction, truth):
    return found_box(prediction, truth) and found_mask(prediction, truth)


def check_masks(prediction, truth):
    assert prediction.meta == truth.meta
    prediction.validate(NUM_CLASSES)
    if prediction.panoptic_map is not None:
        assert prediction.panoptic_map.shape == (SCENE, SCENE)
        ids = {s['id'] for s in prediction.segments}
        assert set(prediction.panoptic_map.unique().tolist()) - {0} == ids
    if prediction.masks is not None:
        assert len(prediction.masks) == len(prediction.boxes)


def found_mask(prediction, truth):
    """Most pixels have the right class (panoptic), or the best mask is the right one."""
    if prediction.panoptic_map is None:
        if not len(prediction):
            return False
        both = (prediction.masks[0] & truth.masks[0]).sum() / (
            prediction.masks[0] | truth.masks[0]).sum()
        return both.item() > 0.6 and bool(prediction.labels[0] == truth.labels[0])
    labels = torch.full_like(truth.semantic_map, -1)
    for segment in prediction.segments:
        labels[prediction.panoptic_map == segment['id']] = segment['label']
    return (labels == truth.semantic_map).float().mean().item() > 0.8


def map_batch(count):
    """Two classes side by side in each image; the last rows are to be ignored."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, 64, 64), dtype=torch.uint8, generator=generator)
    columns = (torch.arange(64) >= 32).long().expand(64, 64)
    maps = [(columns + i) % NUM_CLASSES for i in range(count)]
    for semantic_map in maps:
        semantic_map[-8:] = 255
    return {'inputs': images,
            'samples': [DataSample(meta={'img_id': i, 'img_shape': (64, 64)}, semantic_map=m)
                        for i, m in enumerate(maps)]}


def check_map(prediction, truth):
    assert prediction.meta == truth.meta
    assert prediction.semantic_map.shape == truth.semantic_map.shape
    assert prediction.semantic_map.dtype == torch.int64
    assert prediction.semantic_map.min() >= 0 and prediction.semantic_map.max() < NUM_CLASSES


def is_map_learned(prediction, truth):
    valid = truth.semantic_map != 255
    return (prediction.semantic_map == truth.semantic_map)[valid].float().mean().item() > 0.9


def raw_map(folder):
    cv2.imwrite(str(folder / 'map.png'), np.full((40, 48), 3, np.uint8))
    return {'seg_path': str(folder / 'map.png')}


def view_batch(count):
    """Two views of each image, which differ by a shift and by noise."""
    generator = torch.Generator().manual_seed(0)
    steps = torch.arange(SIZE + 4)
    views = []
    for shift in (0, 3):
        waves = torch.stack([((steps + shift)[:, None] * (i + 1) + steps * (7 - i)) / 9
                             for i in range(count)])
        colours = 1 + torch.arange(3)[:, None, None] / 4
        image = 120 + 90 * (waves[:, None] * colours).sin()[..., :SIZE, :SIZE]
        noise = torch.randint(30, image.shape, generator=generator)
        views.append((image + noise).to(torch.uint8))
    return {'inputs': views, 'samples': [DataSample(meta={'img_id': i}) for i in range(count)]}


def picture_batch(count):
    batch = view_batch(count)
    return {**batch, 'inputs': batch['inputs'][0]}


def check_feats(prediction, truth):
    assert prediction.meta == truth.meta
    assert prediction.extra['feats'].ndim == 1 and prediction.extra['feats'].isfinite().all()


SEMANTIC = Task(map_batch, check_map, is_map_learned, raw_map,
                lambda s: set(s.semantic_map.unique().tolist()) - {255} == {3})


def multi_label_batch(count):
    batch = image_batch(count)
    for i, sample in enumerate(batch['samples']):
        sample.label, sample.label_probs = None, torch.zeros(NUM_CLASSES)
        sample.label_probs[[i % NUM_CLASSES, (i + 2) % NUM_CLASSES]] = 1
    return batch


def check_multi_label(prediction, truth):
    check_classification(prediction, truth)
    assert (prediction.label_probs[prediction.labels] == prediction.scores).all()


def check_embedding(prediction, truth):
    assert prediction.meta == truth.meta
    torch.testing.assert_close(prediction.extra['embedding'].norm(), torch.tensor(1.0))


def same_class_is_nearest(predictions, truth):
    embeddings = torch.stack([p.extra['embedding'] for p in predictions])
    labels = torch.stack([t.label for t in truth])
    similarity = embeddings @ embeddings.T
    same = labels[:, None] == labels[None]
    return bool((similarity[same].min() > similarity[~same].max()).item())


MULTI_LABEL = Task(
    multi_label_batch, check_multi_label,
    lambda p, truth: set(p.labels.tolist()) == set(truth.label_probs.nonzero()[:, 0].tolist()),
    raw_objects, lambda s: s.label_probs[3] == 1 and s.label_probs.sum() == 1 and s.boxes is None)
# By the name of the algorithm, or where a head changes the task, of both.
TASKS = {
    'ImageClassifier/MultiLabelHead': MULTI_LABEL,
    'ImageClassifier/CSRAHead': MULTI_LABEL,
    **dict.fromkeys(('FCN', 'DeepLabV3', 'DeepLabV3Plus', 'SegFormer'), SEMANTIC),
    'ImageClassifier': Task(
        image_batch, check_classification, lambda p, truth: bool(p.label == truth.label)),
    'ImageRetriever': Task(
        image_batch, check_embedding, lambda p, truth: False, all_learned=same_class_is_nearest),
    'Distillation': Task(
        image_batch, check_classification, lambda p, truth: bool(p.label == truth.label)),
    'SimCLR': Task(view_batch, check_feats, None),
    # a frozen patch projection, fixed positions, and the network of the keys
    'MoCoV3': Task(view_batch, check_feats, None,
                   constant=r'^key_|^backbone\.(patch_embed\.|position$)'),
    'DINO': Task(view_batch, check_feats, None, constant=r'^(backbone|head)\.'),
    'MAE': Task(picture_batch, check_feats, None, constant=r'^backbone\.position$'),
    'CausalLM': Task(
        text_batch, check_text,
        lambda p, truth: (p.tokens == truth.target_tokens).float().mean().item() > 0.9),
    'LoRA': Task(
        text_batch, check_text,
        lambda p, truth: (p.tokens == truth.target_tokens).float().mean().item() > 0.9,
        constant=r'^base\..*(attention|mlp)\.\w+\.weight$'),
    # the first layer of DETR's decoder looks from queries at queries that are all zero
    'DETR': Task(
        scene_batch, check_detection, found_box, raw_objects, came_with_a_box,
        constant=r'^head\.decoder\.0\.self_attn\.[qkv]_proj\.'),
    **dict.fromkeys(('RetinaNet', 'FCOS', 'FasterRCNN'), Task(
        scene_batch, check_detection, found_box, raw_objects, came_with_a_box)),
    'MaskRCNN': Task(
        scene_batch, check_masked_detection, found_box_and_mask, raw_objects,
        lambda s: came_with_a_box(s) and s.masks.shape[0] == 1),
    'MultiTask': Task(
        scene_batch, lambda p, truth: (check_detection(p, truth), check_map(p, truth)),
        lambda p, truth: found_box(p, truth) and is_map_learned(p, truth), raw_segments,
        lambda s: s.labels.tolist() == [3] and set(s.semantic_map.unique().tolist()) <= {3, 255}),
    'Mask2Former': Task(
        scene_batch, check_masks, found_mask, raw_segments,
        lambda s: s.labels.tolist() == [3] and s.masks.shape[0] == 1),
}


def shrink(cfg):
    """A copy of a plain config whose parts have the arguments of ``ANYWHERE`` and ``TINY``."""
    if isinstance(cfg, list):
        return [shrink(v) for v in cfg]
    if not isinstance(cfg, dict):
        return cfg
    small = {k: ANYWHERE.get(k, shrink(v)) for k, v in cfg.items()}
    name = str(small.get('type', '')).rpartition('.')[2]
    return small | TINY.get(name, lambda _: {})(small)


@cache
def plain(config):
    return load_config(ROOT / config).to_plain()


def tiny_models():
    """One config for each model that is different when shrunk, whatever its preprocessor."""
    models = {}
    for config in CONFIGS:
        model = shrink(plain(config)['model'])
        key = {k: v for k, v in model.items() if k != 'preprocessor'}
        models.setdefault(json.dumps(key, sort_keys=True), pytest.param(model, id=config))
    return list(models.values())


def pytest_generate_tests(metafunc):
    """Hand each tiny model to each test that takes one; others import this file without them."""
    if 'cfg' in metafunc.fixturenames:
        metafunc.parametrize('cfg', tiny_models())


def tiny_model_of(algorithm):
    """The shrunk model of the first config whose model is of that class."""
    for config in CONFIGS:
        if f'model = dict(\n    type={algorithm},' in (ROOT / config).read_text('utf-8'):
            return shrink(plain(config)['model'])
    raise LookupError(f'no config has a model of type {algorithm}')


def task_of(model_cfg):
    name = model_cfg['type'].rpartition('.')[2]
    head = str((model_cfg.get('head') or {}).get('type', '')).rpartition('.')[2]
    if f'{name}/{head}' in TASKS:
        return TASKS[f'{name}/{head}']
    assert name in TASKS, f'{name} has no row in TASKS: tests/test_configs.py cannot test it'
    return TASKS[name]


def build_tiny(cfg, seed=0):
    torch.manual_seed(seed)
    return build(copy.deepcopy(cfg), path='model')


def prepared(model, batch, training=False):
    return batch if model.preprocessor is None else model.preprocessor(batch, training)


@pytest.mark.parametrize('config', CONFIGS)
def test_config_passes_the_check_and_says_how_to_run_it(config):
    cfg = load_config(ROOT / config)
    check_config(cfg)
    docstring = (ROOT / config).read_text('utf-8').split('"""')[1]
    assert f'openlab train {config}' in docstring


@pytest.mark.parametrize('config', UNTRAINED)
def test_config_that_is_not_trained_passes_the_check_and_says_how_to_use_it(config):
    cfg = load_config(ROOT / config)
    check_config(cfg)
    docstring = (ROOT / config).read_text('utf-8').split('"""')[1]
    assert 'openlab infer' in docstring and 'openlab test CONFIG' in docstring
    assert 'train_dataloader' not in cfg
    transforms = Compose([build(t, TRANSFORMS)
                          for t in plain(config)['test_dataloader']['dataset']['pipeline']])
    image = np.random.default_rng(0).integers(0, 256, (340, 448, 3), dtype=np.uint8)
    item = transforms({'img': image, 'img_id': 7, 'ori_shape': (340, 448),
                       'img_shape': (340, 448)})
    assert item['inputs'].shape == (3, 224, 224)


@pytest.mark.parametrize('config', ALL_CONFIGS)
def test_model_builds_at_full_size_without_memory(config):
    with torch.device('meta'):
        model = build(plain(config)['model'], path='model')
    assert all(p.is_meta for p in model.parameters())


@pytest.mark.parametrize('config', CONFIGS)
def test_pipelines_and_metrics_build_and_images_pass_through(config, tmp_path):
    cfg, task = plain(config), task_of(plain(config)['model'])
    for metric in cfg['val_evaluator']:
        build(metric, METRICS)
    for stage in ('train', 'val', 'test'):
        dataset = cfg[f'{stage}_dataloader']['dataset']
        if dataset.get('pipeline') is None:
            continue
        outer = [build(t, TRANSFORMS) for t in dataset['pipeline']]
        mixes = 'dataset' in dataset  # several images go into one
        inner = [build(t, TRANSFORMS) for t in dataset['dataset']['pipeline']] if mixes else outer
        transforms = Compose(inner)
        image = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        items = [transforms({'img': image, 'img_id': 7, 'ori_shape': (40, 48),
                             'img_shape': (40, 48), **task.raw(tmp_path)})
                 for _ in range(2 if mixes else 1)]
        item = MultiImageDataset(items, outer)[0] if mixes else items[0]
        views = item['inputs'] if isinstance(item['inputs'], list) else [item['inputs']]
        assert all(view.dtype == torch.uint8 and view.shape[0] == 3 for view in views)
        assert task.packed(item['sample'])


def test_loss_is_finite_and_every_parameter_gets_a_gradient(cfg):
    model = build_tiny(cfg).train()
    batch = prepared(model, task_of(cfg).batch(4), training=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(2):  # a branch that starts at zero lets gradients through from the second on
        optimizer.zero_grad()
        losses = model(batch['inputs'], batch['samples'], mode='loss')
        total = sum(v for k, v in losses.items() if k.startswith('loss'))
        assert total.isfinite()
        total.backward()
        optimizer.step()
    backbone = cfg.get('backbone', {})
    kind = str(backbone.get('type', '')).rpartition('.')[2], backbone.get('output')
    reached = {n: p for n, p in model.named_parameters()
               if not re.search(task_of(cfg).constant, n)
               and not re.search(CONSTANT.get(kind, '(?!)'), n)}
    missing = [n for n, p in reached.items() if p.grad is None or not p.grad.any()]
    assert not missing, f'no gradient reaches {missing}'
    assert all(p.grad.isfinite().all() for p in reached.values())


def test_predictions_are_well_formed(cfg):
    model, task = build_tiny(cfg).eval(), task_of(cfg)
    batch = prepared(model, task.batch(3))
    before = copy.deepcopy(batch['samples'])
    with torch.no_grad():
        predictions = model(batch['inputs'], batch['samples'], mode='predict')
    assert len(predictions) == 3
    for prediction, truth, untouched in zip(predictions, batch['samples'], before):
        assert type(prediction) is DataSample
        task.check(prediction, truth)
        assert repr(truth) == repr(untouched)


@pytest.mark.parametrize('algorithm', sorted({name.partition('/')[0] for name in TASKS}))
def test_bfloat16_trains_and_predictions_are_float32(algorithm):
    cfg = tiny_model_of(algorithm)
    model, task = build_tiny(cfg), task_of(cfg)
    batch = prepared(model.train(), task.batch(4), training=True)
    with torch.autocast('cpu', torch.bfloat16):
        losses = model(batch['inputs'], batch['samples'], mode='loss')
        total = sum(v for k, v in losses.items() if k.startswith('loss'))
    total.backward()
    assert total.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    batch = prepared(model.eval(), task.batch(3))
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        predictions = model(batch['inputs'], batch['samples'], mode='predict')
    found = {t.dtype for t in tree_leaves([vars(p) for p in predictions])
             if isinstance(t, torch.Tensor) and t.is_floating_point()}
    assert found <= {torch.float32, torch.float64}


def test_a_tiny_batch_can_be_learned_by_heart(cfg):
    model, task = build_tiny(cfg), task_of(cfg)
    # 8: where a map is one pixel, the variance of fewer items is far from its unbiased estimate
    batch = prepared(model, task.batch(8))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    first = None
    for step in range(1, 301):
        if task.learned is None:
            torch.manual_seed(0)  # the same patches are hidden in every step
        losses = model.train()(batch['inputs'], batch['samples'], mode='loss')
        total = sum(v for k, v in losses.items() if k.startswith('loss'))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        model.after_step()
        first = first or total.item()
        if task.learned is None and total.item() < first / 2:
            return
        if task.learned is not None and step % 20 == 0:
            predictions = predictions_with_fresh_statistics(model, batch)
            if is_learned(task, predictions, batch['samples']):
                return
    pytest.fail(f'not learned in {step} steps; losses at the end: {losses}')


def is_learned(task, predictions, truth):
    if task.all_learned is not None:
        return task.all_learned(predictions, truth)
    return all(task.learned(p, t) for p, t in zip(predictions, truth))


def predictions_with_fresh_statistics(model, batch):
    """Predict with batch norms that have seen this batch with these weights, and nothing else."""
    for module in model.modules():
        if hasattr(module, 'reset_running_stats'):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        model.train()(batch['inputs'], batch['samples'])
        return model.eval()(batch['inputs'], batch['samples'], mode='predict')


def test_exported_program_gives_equal_outputs(cfg):
    model = build_tiny(cfg).eval()
    inputs = prepared(model, task_of(cfg).batch(2))['inputs']
    program = torch.export.export(model, (inputs,))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(inputs), model(inputs), rtol=1e-5, atol=1e-5)


def test_saved_and_loaded_model_predicts_the_same(cfg, tmp_path):
    model, other = build_tiny(cfg, seed=0).eval(), build_tiny(cfg, seed=1).eval()
    inputs = prepared(model, task_of(cfg).batch(2))['inputs']
    parameters = {id(p): (n, p) for n, p in model.state_dict(keep_vars=True).items()}
    save_file({n: p.detach() for n, p in parameters.values()}, tmp_path / 'model.safetensors')
    with torch.no_grad():
        assert not equal(other(inputs), model(inputs))
        load_weights(other, tmp_path / 'model.safetensors')
        assert equal(other(inputs), model(inputs))


def equal(first, second):
    """Whether all tensors of two outputs are the same."""
    pairs = zip(tree_leaves(first), tree_leaves(second), strict=True)
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)
