"""What the pictures of ``openlab visualize`` and of the final summary are made of.

Everything here works from a config: it builds the model and the data as training does, and
leaves the drawing to ``openlab.visualization``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from openlab.config.build import build
from openlab.device import get_device
from openlab.registry import MODELS, OPTIMIZERS
from openlab.structures.data_sample import DataSample
from openlab.visualization.draw import as_rgb


@dataclass
class Items:
    """Some items of a dataset, as images to look at and as they go into the model.

    Attributes:
        images: as the pipeline made them, (H, W, 3) uint8.
        batches: the same collated, in order.
        truths: their samples.
        classes: names of the classes; ``None`` where the dataset has none.
    """

    images: list[np.ndarray]
    batches: list[Any]
    truths: list[DataSample]
    classes: Sequence[str] | None = None


def build_model(cfg: Mapping[str, Any], weights: str | Path | None = None) -> nn.Module:
    """Build the model of a config on the device, ready to predict.

    Args:
        cfg: the whole config.
        weights: anything that ``load_weights`` takes; of a run folder its best checkpoint;
            initial values without.
    """
    model = build(cfg['model'], MODELS, 'model')
    if weights is not None:
        from openlab.apis.summary import best_checkpoint
        from openlab.engine.loading import load_weights

        load_weights(model, best_checkpoint(Path(weights)) or weights)
    return model.to(get_device()).eval()


def build_loader(cfg: Mapping[str, Any], split: str) -> Any:
    """Build the dataloader of a split (``train``, ``val`` or ``test``) in this process.

    Raises:
        ValueError: if the config has no such split.
    """
    from openlab.data.dataloader import build_dataloader

    key = f'{split}_dataloader'
    if cfg.get(key) is None:
        there = [k for k in ('train', 'val', 'test') if cfg.get(f'{k}_dataloader') is not None]
        raise ValueError(f'the config has no {key}; splits it has: {", ".join(there) or "none"}')
    seed = (cfg.get('randomness') or {}).get('seed') or 0
    return build_dataloader({**cfg[key], 'num_workers': 0}, seed=seed, path=key,
                            config_file=getattr(cfg, 'filename', None))


def spread(length: int, count: int) -> list[int]:
    """``count`` indices spread evenly over a dataset, which may be sorted by class."""
    return sorted({int(i) for i in np.linspace(0, length - 1, min(count, length)).round()})


def read_items(loader: Any, indices: Sequence[int], batch_size: int = 32,
               epoch: int = 0) -> Items:
    """Make some items of a loader's dataset, in its own random numbers.

    Args:
        loader: what ``build_loader`` gives.
        indices: which items.
        batch_size: items in a batch.
        epoch: the epoch whose random numbers the transforms draw.

    Raises:
        IndexError: if an index lies beyond the dataset.
    """
    from openlab.data.samplers import Draw

    length = len(loader.source)
    for index in indices:
        if not 0 <= index < length:
            raise IndexError(f'item {index} of a dataset with {length} items')
    made = [(loader.dataset[Draw(epoch, index, index)]) for index in indices]
    failed = [f for _, failures in made for f in failures]
    if failed and not any(item is not None for item, _ in made):
        raise ValueError(f'no item could be read; the first failed with: {failed[0].message}')
    made = [m for m in made if m[0] is not None]
    return Items(
        images=[displayable(item['inputs']) for item, _ in made],
        batches=[loader.collate_fn(made[i:i + batch_size])['batch']
                 for i in range(0, len(made), batch_size)],
        truths=[item['sample'] for item, _ in made],
        classes=loader.metainfo.get('classes') or None,
    )


def displayable(image: Tensor | np.ndarray) -> np.ndarray:
    """An image to look at; one that the pipeline has normalised is stretched to its range."""
    if isinstance(image, Tensor) and image.is_floating_point():
        low, high = image.min(), image.max()
        if low < 0 or high > 1:
            image = (image - low) / (high - low).clamp(min=1e-12)
    return as_rgb(image)


def is_picture(value: Any) -> bool:
    """Whether the input of a model is an image that can be shown."""
    return isinstance(value, Tensor) and value.ndim == 3 and value.shape[0] in (1, 3)


def preprocess(model: nn.Module, batch: Any) -> Mapping[str, Any]:
    """A collated batch as the network takes it."""
    preprocessor = getattr(model, 'preprocessor', None)
    if preprocessor is not None:
        return preprocessor(batch, False)
    device = next((p.device for p in model.parameters()), torch.device('cpu'))
    return {'inputs': torch.as_tensor(batch['inputs']).to(device),
            'samples': [s.to(device) for s in batch['samples']]}


@torch.no_grad()
def predict(model: nn.Module, items: Items) -> list[DataSample]:
    """Predictions for all items, on the CPU."""
    model.eval()
    return [sample.to('cpu') for batch in items.batches
            for sample in model(**preprocess(model, batch), mode='predict')]


def network_inputs(model: nn.Module, items: Items) -> list[Tensor]:
    """Normalised images of each batch, (B, 3, H, W), as Grad-CAM and feature maps take them."""
    return [preprocess(model, batch)['inputs'] for batch in items.batches]


@torch.no_grad()
def pooled_features(model: nn.Module, items: Items, layer: str | None = None) -> np.ndarray:
    """One vector for each image: a layer's output, its places averaged, (N, D).

    Args:
        model: the model.
        items: the images.
        layer: name of a module; by default the last stage of the backbone.
    """
    from openlab.visualization.cam import find_layer

    module = find_layer(model, layer or ('backbone' if hasattr(model, 'backbone') else ''))
    vectors: list[Tensor] = []

    def record(_: nn.Module, __: Any, output: Any) -> None:
        value = output[-1] if isinstance(output, (tuple, list)) else output
        if value.ndim == 4:
            value = value.mean((2, 3))
        elif value.ndim == 3:
            value = value.mean(1)
        vectors.append(value.float().cpu())

    handle = module.register_forward_hook(record)
    try:
        model.eval()
        for inputs in network_inputs(model, items):
            model(inputs)
    finally:
        handle.remove()
    return torch.cat(vectors).numpy()


def augmented_views(loader: Any, index: int, count: int) -> list[tuple[np.ndarray, DataSample]]:
    """The same item as ``count`` epochs would see it."""
    views = []
    for epoch in range(count):
        items = read_items(loader, [index], epoch=epoch)
        views.append((items.images[0], items.truths[0]))
    return views


def original_image(dataset: Any, index: int) -> np.ndarray | None:
    """The image of an item before any transform; ``None`` where the dataset keeps it to itself."""
    if not hasattr(dataset, 'prepare'):
        return None
    results = dataset.prepare(index)
    if isinstance(results.get('img'), np.ndarray):
        return as_rgb(results['img'])
    if isinstance(results.get('img_path'), str):
        image = cv2.imread(results['img_path'], cv2.IMREAD_COLOR)
        return None if image is None else np.ascontiguousarray(image[..., ::-1])
    return None


def schedule_values(cfg: Mapping[str, Any], iters_per_epoch: int | None = None,
                    ) -> tuple[dict[str, list[float]], int | None]:
    """The learning rate (and momentum, if scheduled) of each iteration, without training.

    Args:
        cfg: the whole config.
        iters_per_epoch: length of an epoch; by default counted from the training data.

    Returns:
        Values by name, and the length of an epoch (``None`` for iteration-based training).

    Raises:
        ValueError: if the config has no optimizer or no length.
    """
    from openlab.engine.schedulers import build_schedules

    train_cfg = cfg.get('train_cfg') or {}
    wrapper = cfg.get('optim_wrapper') or {}
    if 'optimizer' not in wrapper:
        raise ValueError('the config has no optim_wrapper.optimizer, so there is no learning rate')
    counts_epochs = 'max_iters' not in train_cfg
    if counts_epochs and 'max_epochs' not in train_cfg:
        raise ValueError('train_cfg says neither max_epochs nor max_iters')
    if counts_epochs and iters_per_epoch is None:
        iters_per_epoch = train_cfg.get('max_batches') or len(build_loader(cfg, 'train'))
    max_epochs = int(train_cfg.get('max_epochs', 1))
    length = iters_per_epoch or int(train_cfg['max_iters'])
    max_iters = max_epochs * length if counts_epochs else int(train_cfg['max_iters'])
    optimizer = build(wrapper['optimizer'], OPTIMIZERS, 'optim_wrapper.optimizer',
                      params=[nn.Parameter(torch.zeros(1))])
    schedules = build_schedules(cfg.get('param_scheduler') or [], optimizer, max_epochs,
                                max_iters, length, counts_epochs)
    values: dict[str, list[float]] = {'learning rate': [], 'momentum': []}
    for iteration in range(max_iters):
        group = optimizer.param_groups[0]
        values['learning rate'].append(float(group['lr']))
        values['momentum'].append(float(group.get('momentum', 0) or group.get('betas', (0,))[0]))
        is_epoch_end = counts_epochs and (iteration + 1) % length == 0
        for schedule in schedules:
            if getattr(schedule, 'need_val_args', False):
                continue  # waits for results that only a training has
            if not schedule.by_epoch or is_epoch_end:
                schedule.step()
    if len(set(values['momentum'])) == 1:
        del values['momentum']
    return values, length if counts_epochs else None
