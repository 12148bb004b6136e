"""Grad-CAM (https://arxiv.org/abs/1610.02391): which part of an image a score comes from.

The score of a class is derived by a layer's activations; channels are weighted by the mean of
their derivative and summed, and what is negative is cut off (eq. 1 and 2). A transformer's
tokens are put back into the grid of their patches first.

B batch · C channels · T tokens · H, W image size · h, w size of the map
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from openlab.visualization.draw import as_rgb, enlarge, scale_for

MAX_PREFIX = 16  # class, distillation and register tokens before the patches


def grad_cam(
    model: nn.Module,
    inputs: Tensor,
    target: Tensor | int | None = None,
    layer: nn.Module | str | None = None,
    score: Callable[[Any, Tensor | None], Tensor] | None = None,
) -> Tensor:
    """Compute the map of a score for each image.

    Args:
        model: called as ``model(inputs)``; its outputs hold class logits (B, K), unless
            ``score`` says otherwise.
        inputs: images as the network takes them, (B, 3, H, W).
        target: class to explain, for all images or for each; by default the predicted one.
        layer: module, or its name, whose output is weighed; by default the last one that still
            has places and on which the score depends place by place.
        score: outputs and target to one score for each image, (B,).

    Returns:
        Maps from 0 to 1 at the size of the images, (B, H, W).

    Raises:
        ValueError: if the layer is unknown or its output has no places.
    """
    if isinstance(target, int):
        target = torch.full((len(inputs),), target, device=inputs.device)
    if isinstance(layer, str):
        layer = find_layer(model, layer)
    size = (int(inputs.shape[2]), int(inputs.shape[3]))
    was_training = model.training
    model.eval()
    try:
        activations, total = _forward(model, inputs, target, layer, score or logit_score)
        gradients = (
            torch.autograd.grad(total, activations, allow_unused=True) if activations else ())
    finally:
        model.train(was_training)
    for activation, gradient in reversed(list(zip(activations, gradients))):
        if gradient is None:
            continue
        map_, derivative = as_map(activation, size), as_map(gradient, size)
        if map_ is None or derivative is None:
            continue
        # Where only one token is read out, the others' derivative is zero: an earlier layer,
        # before tokens are mixed for the last time, tells places apart.
        if layer is None and not _has_places(derivative):
            continue
        return _combine(map_.detach(), derivative, size)
    where = 'the layer' if layer is not None else 'no layer of the model'
    raise ValueError(
        f'{where} has an output with places (B, C, h, w) or patch tokens (B, T, C) on which the '
        f'score depends; layers: {", ".join(name_list(model)[:20])} ...')


def logit_score(outputs: Any, target: Tensor | None) -> Tensor:
    """Logit of the target class, of the best class without one."""
    if isinstance(outputs, dict):
        outputs = outputs.get('logits', next(iter(outputs.values())))
    if isinstance(outputs, (tuple, list)):
        outputs = outputs[-1]
    if not isinstance(outputs, Tensor) or outputs.ndim != 2:
        raise ValueError('the model does not return class logits (B, K); give grad_cam a score '
                         'function of its outputs')
    if target is None:
        target = outputs.argmax(1)
    return outputs.gather(1, target[:, None].to(outputs.device))[:, 0]


def as_map(value: Tensor, size: tuple[int, int]) -> Tensor | None:
    """Activations as (B, C, h, w); ``None`` if they have no places.

    Args:
        value: (B, C, h, w), or tokens (B, T, C) of which the last h * w are patches.
        size: height and width of the image, which tells the proportions of the patch grid.
    """
    if value.ndim == 4:
        return value if value.shape[2] * value.shape[3] > 1 else None
    if value.ndim != 3:
        return None
    grid = patch_grid(value.shape[1], size)
    if grid is None:
        return None
    patches = value[:, value.shape[1] - grid[0] * grid[1]:]
    return patches.transpose(1, 2).reshape(value.shape[0], value.shape[2], *grid)


def patch_grid(num_tokens: int, size: tuple[int, int]) -> tuple[int, int] | None:
    """Height and width of the patch grid behind as few prefix tokens as possible."""
    height, width = size
    for prefix in range(min(MAX_PREFIX, num_tokens - 3)):
        patches = num_tokens - prefix
        h = round((patches * height / width) ** 0.5)
        if h > 0 and patches % h == 0 and h * width == (patches // h) * height:
            return h, patches // h
    return None


def find_layer(model: nn.Module, name: str) -> nn.Module:
    """Return the submodule of that name.

    Raises:
        ValueError: if there is none; the message lists near matches.
    """
    import difflib

    modules = dict(model.named_modules())
    if name not in modules:
        near = difflib.get_close_matches(name, modules, n=3, cutoff=0.4)
        hint = f'; did you mean {" or ".join(near)}?' if near else ''
        raise ValueError(f'{type(model).__name__} has no layer {name!r}{hint}')
    return modules[name]


def draw_cam(image: np.ndarray | Tensor, cam: np.ndarray | Tensor, *, alpha: float = 0.55,
             min_side: int = 224) -> np.ndarray:
    """Lay a map over its image: the more it counts, the warmer and the less transparent.

    Args:
        image: the image, any usual form.
        cam: map from 0 to 1, (H, W) of any size.
        alpha: how much the warmest colour covers.
        min_side: smaller images are enlarged to this short side.
    """
    picture = as_rgb(image)
    picture = enlarge(picture, scale_for(picture, min_side))
    values = cam.detach().cpu().numpy() if isinstance(cam, Tensor) else np.asarray(cam)
    values = cv2.resize(values.astype(np.float32), (picture.shape[1], picture.shape[0]),
                        interpolation=cv2.INTER_LINEAR).clip(0, 1)
    colours = cv2.applyColorMap((values * 255).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    cover = (alpha * (0.35 + 0.65 * values))[..., None]
    grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return (grey * (1 - cover) + colours * cover).round().astype(np.uint8)


def name_list(model: nn.Module) -> list[str]:
    """Names of the layers that could be explained."""
    return [name for name, module in model.named_modules() if name and _is_candidate(module)]


def _forward(model: nn.Module, inputs: Tensor, target: Tensor | None, layer: nn.Module | None,
             score: Callable[[Any, Tensor | None], Tensor],
             ) -> tuple[list[Tensor], Tensor]:
    """Run the model; returns the recorded activations in order, and the sum of scores."""
    recorded: list[Tensor] = []

    def record(module: nn.Module, args: Any, output: Any) -> None:
        value = output[-1] if isinstance(output, (tuple, list)) and output else output
        if not isinstance(value, Tensor) or value.ndim not in (3, 4) or not value.requires_grad:
            return
        # Normalised (B, heads, T, d) and channels-last maps look like maps, and are none.
        if layer is None and value.ndim == 4 and isinstance(module, nn.LayerNorm):
            return
        recorded.append(value)

    handles = [module.register_forward_hook(record)
               for name, module in model.named_modules()
               if module is layer or (layer is None and name and _is_candidate(module))]
    try:
        with torch.enable_grad():
            # The input asks for a gradient, so that a frozen network has one as well.
            outputs = model(inputs.detach().requires_grad_())
            return recorded, score(outputs, target).sum()
    finally:
        for handle in handles:
            handle.remove()


def _is_candidate(module: nn.Module) -> bool:
    """Whether a module's output is a state of the network rather than an inner product of one.

    Of a transformer these are the normalised tokens, which have the width of the network.
    """
    return not isinstance(module, (nn.Linear, nn.Dropout, nn.Identity, nn.GELU,
                                   nn.MultiheadAttention))


def _has_places(gradient: Tensor) -> bool:
    strength = gradient.detach().abs().sum(1).flatten(1)
    return bool(((strength > 0).sum(1) > 1).any())


def _combine(activation: Tensor, gradient: Tensor, size: tuple[int, int]) -> Tensor:
    """Equations 1 and 2, at the size of the image and from 0 to 1."""
    weights = gradient.mean((2, 3), keepdim=True)
    cam = (weights * activation).sum(1, keepdim=True).relu()
    cam = nn.functional.interpolate(cam.float(), size, mode='bilinear', align_corners=False)[:, 0]
    highest = cam.flatten(1).amax(1).clamp(min=1e-12)[:, None, None]
    return (cam / highest).detach()
