"""What the comparisons of segmentors with other projects share."""

import torch
from torch import nn
from torch.nn import functional as F

from openlab.structures.data_sample import DataSample


def make_batch(num_classes, height=48, width=64):
    """Two images; the second is narrower than the batch and has pixels to ignore."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, 3, height, width, generator=generator)
    maps = torch.randint(num_classes, (2, height, width), generator=generator)
    inner = height - 8, width - 16
    maps[1, inner[0] :], maps[1, :, inner[1] :] = 255, 255
    maps[1, :4, :10] = 255
    samples = [
        DataSample(meta={'img_shape': (height, width)}, semantic_map=maps[0]),
        DataSample(meta={'img_shape': inner}, semantic_map=maps[1, : inner[0], : inner[1]]),
    ]
    return images, samples, maps


def without_dropout(model):
    for module in model.modules():
        if isinstance(module, (nn.Dropout, nn.Dropout2d)):
            module.p = 0.0
    return model


def assert_equal_to_torchvision(ours, theirs, num_classes):
    """In training: both outputs, the loss that torchvision's recipe computes, gradients."""
    images, samples, maps = make_batch(num_classes)
    ours.train(), theirs.train()
    ours.zero_grad(), theirs.zero_grad()
    outputs, expected = ours(images), theirs(images)
    assert relative_error(outputs.logits, expected['out']) <= 1e-4
    assert relative_error(outputs.auxiliary, expected['aux']) <= 1e-4

    losses = ours.loss(outputs, samples)
    main = F.cross_entropy(expected['out'], maps, ignore_index=255)
    auxiliary = F.cross_entropy(expected['aux'], maps, ignore_index=255)
    torch.testing.assert_close(losses['loss_seg'], main, rtol=1e-5, atol=0)
    torch.testing.assert_close(losses['loss_aux_seg'] / 0.4, auxiliary, rtol=1e-5, atol=0)
    assert losses['num_items'] == (maps != 255).sum()

    (losses['loss_seg'] + losses['loss_aux_seg']).backward()
    (main + 0.4 * auxiliary).backward()
    for mine, other in (
        (ours.head.out, theirs.classifier[-1]),
        (ours.auxiliary_head.out, theirs.aux_classifier[-1]),
        (ours.backbone.stages[3][0].conv2.conv, theirs.backbone.layer4[0].conv2),
    ):
        assert relative_error(mine.weight.grad, other.weight.grad) <= 1e-3


def relative_error(actual, expected):
    return ((actual - expected).abs().max() / expected.abs().max()).item()
