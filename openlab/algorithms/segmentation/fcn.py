"""FCN: a classifier of images made a classifier of pixels.

Paper: Fully Convolutional Networks for Semantic Segmentation, https://arxiv.org/abs/1411.4038.

Idea: a network that classifies images is a convolutional one but for its last layers; with those
as convolutions too it gives a coarse map of class scores for an image of any size, which is
enlarged to the image.

What differs from the paper: as everywhere since, the backbone is a dilated ResNet with maps at an
eighth of the image, so that no skip connections are needed, and logits are enlarged bilinearly
instead of by a learned convolution. The pieces: the head is ``openlab/heads/fcn_head.py``,
everything else is in ``semantic.py``.
"""

from __future__ import annotations

from openlab.algorithms.segmentation.semantic import SemanticSegmentor
from openlab.registry import MODELS
from openlab.zoo.key_map import KeyMap

TORCHVISION = KeyMap(
    'torchvision',
    [(r'^classifier\.', 'head.'), (r'^aux_classifier\.', 'auxiliary_head.')],
    signature=[r'^classifier\.', r'^backbone\.'],
)


@MODELS.register_module()
class FCN(SemanticSegmentor):
    """Dilated backbone and ``FCNHead``; arguments are those of ``SemanticSegmentor``."""

    weights = (TORCHVISION,)
