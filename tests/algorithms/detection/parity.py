"""What the comparisons with torchvision's detectors share."""

import copy

import torch
from torch import nn

from openlab.structures.data_sample import DataSample

FROZEN = {'type': 'torchvision.ops.FrozenBatchNorm2d'}


def shake(module):
    """Give every vector a value that its initialisation would not have."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in module.state_dict().items():
        if 'running_var' in name:
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.is_floating_point() and tensor.dim() < 2:
            tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.05)


def losses_of(model, images, targets):
    """Losses of torchvision's model, with batch norms as they are in evaluation, as ours are."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    losses = model(list(images), targets)
    model.eval()
    return losses


def make_batch(height=96, width=128):
    """Two images, the second without objects, as our samples and as torchvision's targets."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, 3, height, width, generator=generator)
    boxes = [
        torch.tensor([[5.0, 10, 60, 70], [40, 30, 120, 90], [2, 2, 20, 22]]), torch.zeros(0, 4),
    ]  # fmt: skip
    labels = [torch.tensor([0, 3, 4]), torch.zeros(0, dtype=torch.long)]
    samples = [DataSample(boxes=b, labels=y) for b, y in zip(boxes, labels)]
    targets = [{'boxes': b, 'labels': y} for b, y in zip(boxes, labels)]
    return images, samples, targets


def first_conv(module):
    """The convolution itself, where a normalisation may follow it."""
    return getattr(module, 'conv', module)


def relative_error(actual, expected):
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def in_double(pair, batch):
    """Copies in double precision, where no ReLU is on for one side only because of rounding."""
    ours, theirs = (copy.deepcopy(model).double() for model in pair)
    generator = theirs.rpn.anchor_generator
    generator.cell_anchors = [cell.double() for cell in generator.cell_anchors]
    images, samples, targets = copy.deepcopy(batch)
    for sample, target in zip(samples, targets):
        sample.boxes = target['boxes'] = sample.boxes.double()
    return (ours, theirs), (images.double(), samples, targets)
