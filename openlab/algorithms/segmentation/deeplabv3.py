"""DeepLabV3: context of several sizes by dilated convolutions side by side.

Paper: Rethinking Atrous Convolution for Semantic Image Segmentation,
https://arxiv.org/abs/1706.05587.

Idea: dilation lets a network keep the resolution of its maps and still see far. Parallel 3x3
convolutions with different dilations, a 1x1 convolution and the mean of the whole map (ASPP) look
at a place in contexts of different sizes.

What differs from the paper: the stages are dilated without the multi-grid of its section 3.2, and
an auxiliary head may help training, both as in torchvision. The pieces: ``openlab/layers/aspp.py``
and ``semantic.py``.

B batch · K classes · h, w size of a feature map
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from openlab.algorithms.segmentation.fcn import TORCHVISION
from openlab.algorithms.segmentation.semantic import SemanticSegmentor
from openlab.heads.decode_head import DecodeHead, channels_at
from openlab.layers.aspp import ASPP
from openlab.layers.conv import ConvNormAct
from openlab.losses.base import ClassificationLoss
from openlab.registry import MODELS
from openlab.zoo.key_map import KeyMap


@MODELS.register_module()
class DeepLabV3Head(DecodeHead):
    """ASPP on the last feature map, a 3x3 convolution, a score for each class.

    Args:
        num_classes: K.
        in_channels: of the maps, or of the last one; by default what feeds the head.
        channels: width of everything in the head.
        dilations: of ASPP; (12, 24, 36) suit maps at an eighth of the image, half of that a
            sixteenth.
        dropout: probability to drop an output of ASPP in training.
        loss: see ``DecodeHead``.
        extra_losses: see ``DecodeHead``.
        norm: see ``make_norm``.
        act: see ``make_act``.
    """

    weights = (
        KeyMap(
            'torchvision',
            [
                (r'^0\.convs\.4\.1\.', '0.image.conv.'),
                (r'^0\.convs\.4\.2\.', '0.image.norm.'),
                (r'^0\.convs\.(\d)\.0\.', r'0.branches.\1.conv.'),
                (r'^0\.convs\.(\d)\.1\.', r'0.branches.\1.norm.'),
                (r'^0\.project\.0\.', '0.project.conv.'),
                (r'^0\.project\.1\.', '0.project.norm.'),
                (r'^0\.', 'aspp.'),
                (r'^1\.', 'conv.conv.'),
                (r'^2\.', 'conv.norm.'),
                (r'^4\.', 'out.'),
            ],
            signature=[r'^0\.convs\.4\.1\.'],
        ),
    )

    def __init__(
        self,
        num_classes: int,
        in_channels: int | Sequence[int] | None = None,
        channels: int = 256,
        dilations: Sequence[int] = (12, 24, 36),
        dropout: float = 0.5,
        loss: ClassificationLoss | None = None,
        extra_losses: dict[str, nn.Module] | None = None,
        norm: dict[str, Any] | None = None,
        act: dict[str, Any] | None = None,
    ):
        super().__init__(num_classes, loss, extra_losses)
        style: dict[str, Any] = {'norm': norm, 'act': act}
        self.aspp = ASPP(channels_at(in_channels, -1, self), channels, dilations, dropout, **style)
        self.conv = ConvNormAct(channels, channels, 3, **style)
        self.out = nn.Conv2d(channels, num_classes, 1)

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        """Logits (B, K, h, w) of the last of ``feats``."""
        return self.out(self.conv(self.aspp(feats[-1])))


@MODELS.register_module()
class DeepLabV3(SemanticSegmentor):
    """Dilated backbone and ``DeepLabV3Head``; arguments are those of ``SemanticSegmentor``."""

    weights = (TORCHVISION,)
