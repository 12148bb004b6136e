"""Cut an image into patches and embed each one.

B batch · D embedding · H, W image height and width · P patch size
"""

from __future__ import annotations

from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """One linear map of all pixels of a patch, as a convolution.

    Args:
        patch_size: height and width of a patch in pixels.
        in_channels: channels of the image.
        embed_dim: size of an embedding (D).
        bias: add a bias.
    """

    def __init__(self, patch_size: int, in_channels: int, embed_dim: int, bias: bool = True):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, embed_dim, patch_size, patch_size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, D, H / P, W / P); H and W must be multiples of P."""
        H, W = x.shape[-2:]
        if H % self.patch_size or W % self.patch_size:
            raise ValueError(f'image height and width must be multiples of patch_size='
                             f'{self.patch_size}, not {H} x {W}; resize or pad (pad_divisor of '
                             'the preprocessor)')
        return self.proj(x)
