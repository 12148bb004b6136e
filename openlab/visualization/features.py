"""Feature maps: what each stage of a network responds to.

B batch · C channels · h, w size of the map
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from openlab.visualization.cam import as_map, find_layer
from openlab.visualization.draw import add_caption, as_rgb, draw_grid, enlarge, scale_for
from openlab.visualization.text import BLACK


def feature_maps(model: nn.Module, inputs: Tensor,
                 layers: list[str] | None = None) -> dict[str, Tensor]:
    """Run the model once and return the maps of some layers.

    Args:
        model: called as ``model(inputs)``.
        inputs: images as the network takes them, (B, 3, H, W).
        layers: names of modules; by default the backbone, all of whose outputs are taken.

    Returns:
        Maps (B, C, h, w) by name; tokens are put back into their grid.

    Raises:
        ValueError: if a layer is unknown, or gave nothing with places.
    """
    names = layers or ['backbone' if hasattr(model, 'backbone') else '']
    size = (int(inputs.shape[2]), int(inputs.shape[3]))
    maps: dict[str, Tensor] = {}

    def record(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            several = isinstance(output, (tuple, list))
            for i, value in enumerate(output if several else [output]):
                found = as_map(value.detach(), size) if isinstance(value, Tensor) else None
                if found is not None:
                    maps[f'{name}[{i}]' if several else name] = found
        return hook

    handles = [find_layer(model, name).register_forward_hook(record(name)) for name in names]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(inputs)
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    if not maps:
        raise ValueError(f'{names} gave no output with places (B, C, h, w) or patch tokens')
    return maps


def draw_features(image: np.ndarray | Tensor, maps: dict[str, Tensor], *, channels: int = 7,
                  cell: int = 160) -> np.ndarray:
    """One row for each layer: the mean over its channels, then those that vary most.

    Args:
        image: the image that the maps belong to.
        maps: maps of this one image, (C, h, w) by name.
        channels: channels of each layer to show.
        cell: height of one picture.
    """
    picture = as_rgb(image)
    picture = enlarge(picture, scale_for(picture, cell))
    factor = cell / picture.shape[0]
    width = max(1, round(picture.shape[1] * factor))
    picture = cv2.resize(picture, (width, cell), interpolation=cv2.INTER_AREA)
    pictures = []
    for name, feats in maps.items():
        pictures.append(add_caption(picture, [(name, BLACK)], size=13))
        mean = feats.float().mean(0)
        pictures.append(_heat(mean, width, cell, f'mean of {len(feats)}'))
        strongest = feats.float().flatten(1).std(1).argsort(descending=True)[:channels]
        pictures += [_heat(feats[int(c)], width, cell, f'channel {int(c)}') for c in strongest]
        blank = np.full_like(pictures[-1], 255)
        pictures += [blank] * (channels - len(strongest))
    return draw_grid(pictures, channels + 2, pad=6)


def _heat(values: Tensor, width: int, height: int, title: str) -> np.ndarray:
    array = values.detach().float().cpu().numpy()
    low, high = float(array.min()), float(array.max())
    scaled = ((array - low) / max(high - low, 1e-12) * 255).astype(np.uint8)
    heat = cv2.applyColorMap(scaled, cv2.COLORMAP_VIRIDIS)[..., ::-1]
    heat = cv2.resize(heat, (width, height), interpolation=cv2.INTER_NEAREST)
    return add_caption(heat, [(title, BLACK)], size=13)
