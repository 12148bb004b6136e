"""A backbone of one's own: depthwise convolutions between pointwise ones.

Paper: Howard et al., MobileNets, https://arxiv.org/abs/1704.04861 (here without its details).

B batch · C channels · H, W image height and width
"""

from itertools import pairwise

from torch import Tensor, nn

from openlab.registry import MODELS


@MODELS.register_module()
class DepthwiseNet(nn.Module):
    """Each stage halves the resolution and doubles the channels.

    Args:
        width: channels of the first stage.
        num_stages: number of stages.
        in_channels: channels of the image.
    """

    def __init__(self, width: int = 16, num_stages: int = 2, in_channels: int = 3):
        super().__init__()
        channels = [in_channels, *(width * 2**i for i in range(num_stages))]
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(a, b, 1),
                nn.Conv2d(b, b, 3, stride=2, padding=1, groups=b, bias=False),
                nn.BatchNorm2d(b),
                nn.ReLU(),
            )
            for a, b in pairwise(channels)
        )
        self.out_channels = tuple(channels[1:])
        self.strides = tuple(2 ** (i + 1) for i in range(num_stages))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Image (B, 3, H, W) to one map for each stage, fine to coarse."""
        feats = []
        for stage in self.stages:
            x = stage(x)
            feats.append(x)
        return tuple(feats)
