"""What a model costs: parameters, FLOPs, activation memory, throughput, latency.

B batch · C channels · H, W image height and width · T tokens
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from openlab import device as chips
from openlab.config import ConfigDict, ConfigError
from openlab.config.build import build
from openlab.config.resolve import build_on_meta
from openlab.registry import DATASETS, TRANSFORMS

_PROBES = (331, 512)  # sides of two images that have no size in common with real ones
_VOCABULARY = 2


@dataclass
class ModuleStats:
    """One module, with everything inside it.

    Attributes:
        name: path in the model; empty for the model itself.
        kind: name of its class.
        params: number of parameters, shared ones counted once.
        flops: floating-point operations of one forward pass; a multiply-add counts as two.
        activations: bytes that the forward pass keeps for the backward pass.
        output: shapes of its outputs.
    """

    name: str
    kind: str
    params: int = 0
    flops: int = 0
    activations: int = 0
    output: str = ''

    @property
    def depth(self) -> int:
        """How many modules it is inside of."""
        return self.name.count('.') + 1 if self.name else 0


@dataclass
class ModelStats:
    """What one forward pass of a model costs.

    Attributes:
        input_shape: shape of the input, batch included.
        modules: the model and all its modules, in the order they are declared.
        trainable: number of parameters that require gradients.
    """

    input_shape: tuple[int, ...]
    modules: list[ModuleStats] = field(default_factory=list)
    trainable: int = 0

    @property
    def total(self) -> ModuleStats:
        """The model as a whole."""
        return self.modules[0]


def input_shape_of(cfg: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the shape (C, H, W) in which a config's test pipeline hands over an image.

    A dataset of text has no pipeline; its ``context_length`` is the number of tokens.

    The pipeline, without what loads files, is run on two blank images of different size. Where
    it leaves their size alone, the dataset's class may say how large its images are by an
    attribute ``image_size``, or its ``make`` by the ``size`` of what it makes. Where evaluation
    takes images as they are, the crops of the training pipeline tell.

    Raises:
        ConfigError: if the size always depends on the image.
    """
    for stage in ('test', 'val', 'train'):
        dataset = (cfg.get(f'{stage}_dataloader') or {}).get('dataset')
        while isinstance(dataset, Mapping) and 'pipeline' not in dataset and 'dataset' in dataset:
            dataset = dataset['dataset']  # a wrapper
        if not isinstance(dataset, Mapping):
            continue
        if 'pipeline' not in dataset:
            if isinstance(dataset.get('context_length'), int):
                return (dataset['context_length'],)
            continue
        transforms = [
            build(t, TRANSFORMS, f'{stage}_dataloader.dataset.pipeline[{i}]')
            for i, t in enumerate(dataset['pipeline'])
        ]
        shapes = {_shape_after(transforms, side) for side in _probes(dataset)}
        if len(shapes) == 1:
            return shapes.pop()
    raise ConfigError(
        'the size of the input is not told by the test pipeline; give it, as in --shape 3 224 224'
    )


def _probes(dataset: Mapping[str, Any]) -> Sequence[int]:
    from openlab.config.build import resolve_type

    size = getattr(resolve_type(dataset.get('type'), DATASETS), 'image_size', None)
    if size is None and isinstance(dataset.get('make'), Mapping):
        size = dataset['make'].get('size')  # of images that are made if they are not there
    return (size,) if isinstance(size, int) else _PROBES


def _shape_after(transforms: Sequence[Any], side: int) -> tuple[int, ...]:
    shape = (side, side)
    results: Any = {
        'img': np.zeros((*shape, 3), np.uint8), 'img_path': '', 'img_id': 0, 'label': 0,
        'ori_shape': shape, 'img_shape': shape, 'scale_factor': (1.0, 1.0), 'flip': False,
    }
    for transform in transforms:
        if not type(transform).__name__.startswith(('Load', 'Decode')):
            results = transform(results)
    image = results['inputs'] if 'inputs' in results else results['img']
    if isinstance(image, Tensor):
        return tuple(image.shape)
    return (image.shape[2], *image.shape[:2])


def make_inputs(shape: Sequence[int], batch_size: int, device: str | torch.device) -> Tensor:
    """Return a batch of blank inputs: images for (C, H, W) or (H, W), token ids for (T,).

    Raises:
        ConfigError: for any other shape.
    """
    if not 1 <= len(shape) <= 3 or min(shape) < 1:
        raise ConfigError(f'a shape is C H W, H W or the number of tokens, not {list(shape)}')
    if len(shape) == 1:
        return torch.randint(_VOCABULARY, (batch_size, shape[0]), device=device)
    shape = (3, *shape) if len(shape) == 2 else tuple(shape)
    return torch.rand(batch_size, *shape, device=device)


def config_stats(cfg: ConfigDict, shape: Sequence[int] | None = None) -> ModelStats:
    """Count what the model of a config costs for one input, on the meta device.

    Args:
        cfg: the config; values that building derives are written into it.
        shape: of one input; by default as the test pipeline makes it.

    Raises:
        ConfigError: if the model cannot run on the meta device, or the shape is not known.
    """
    model = build_on_meta(cfg)
    return count(model, tuple(shape) if shape else input_shape_of(cfg))


def count(model: nn.Module, shape: Sequence[int]) -> ModelStats:
    """Count what one input costs; the model lives on the meta device, or is moved by the caller.

    Raises:
        ConfigError: if the forward pass fails.
    """
    from torch.utils.flop_counter import FlopCounterMode

    device = next((p.device for p in model.parameters()), torch.device('meta'))
    inputs = make_inputs(shape, 1, device)
    stats = ModelStats(tuple(inputs.shape), trainable=sum(
        p.numel() for p in model.parameters() if p.requires_grad))
    rows = {
        name: ModuleStats(name, type(module).__name__, _num_params(module))
        for name, module in model.named_modules()
    }
    was_training = model.training
    model.eval()
    counter = FlopCounterMode(display=False)
    try:
        with _watch_modules(model, rows), counter:
            model(inputs)
    except Exception as error:
        raise ConfigError(
            f'the model fails on an input of shape {list(inputs.shape)}'
            f'{_too_small_for(model, inputs.shape)}: {type(error).__name__}: {error}'
        ) from error
    finally:
        model.train(was_training)
    root = type(model).__name__
    for path, operations in counter.get_flop_counts().items():
        name = '' if path in ('Global', root) else path.removeprefix(f'{root}.')
        if name in rows:
            rows[name].flops = sum(operations.values())
    stats.modules = list(rows.values())
    return stats


def _too_small_for(model: nn.Module, shape: Sequence[int]) -> str:
    """A hint where images are smaller than one step of the backbone's last map."""
    stride = max(getattr(getattr(model, 'backbone', None), 'strides', None) or (1,))
    if len(shape) != 4 or min(shape[2:]) >= stride:
        return ''
    return (f', whose images are smaller than the stride of its backbone ({stride} px); resize '
            'them in the pipelines, or take a backbone for small images')


@contextmanager
def _watch_modules(model: nn.Module, rows: Mapping[str, ModuleStats]) -> Iterator[None]:
    """Note shapes, and charge each tensor kept for backward to the modules it is kept in."""
    own = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
    inside: list[str] = []
    seen: set[int] = set(own)

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in seen:
            seen.add(storage._cdata)
            for name in {'', *inside}:
                rows[name].activations += tensor.numel() * tensor.element_size()
        return tensor

    def enter(name: str) -> Any:
        def hook(module: nn.Module, args: Any) -> None:
            inside.append(name)

        return hook

    def leave(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            inside.pop()
            rows[name].output = _shapes(output)

        return hook

    with ExitStack() as stack:
        for name, module in model.named_modules():
            for handle in (module.register_forward_pre_hook(enter(name)),
                           module.register_forward_hook(leave(name))):
                stack.callback(handle.remove)
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t))
        yield


def _num_params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _shapes(output: Any) -> str:
    if isinstance(output, Tensor):
        return 'x'.join(map(str, output.shape))
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, (list, tuple)):
        return ', '.join(filter(None, map(_shapes, output)))
    return ''


@dataclass
class Timing:
    """Measured speed.

    Attributes:
        device: where.
        batch_size: inputs in one pass.
        median: seconds of a pass.
        p95: seconds that 95 % of the passes stay under.
        passes: how many were measured.
    """

    device: str
    batch_size: int
    median: float
    p95: float
    passes: int

    @property
    def throughput(self) -> float:
        """Inputs per second."""
        return self.batch_size / self.median


def measure(
    model: nn.Module, shape: Sequence[int], batch_size: int = 1,
    device: str | torch.device | None = None, seconds: float = 3.0,
) -> Timing:
    """Time the forward pass of a model, without gradients.

    Args:
        model: moved to the device, and set to evaluate.
        shape: of one input.
        batch_size: inputs in one pass.
        device: where; by default the one that training would use.
        seconds: how long to measure, after a warm-up of a fifth of it.
    """
    where = chips.get_device() if device is None else chips.check_device(device)
    model = model.to(where).eval()
    inputs = make_inputs(shape, batch_size, where)

    def one_pass() -> float:
        begin = time.perf_counter()
        model(inputs)
        chips.synchronize(where)
        return time.perf_counter() - begin

    with torch.inference_mode():
        until = time.perf_counter() + seconds / 5
        one_pass()
        while time.perf_counter() < until:
            one_pass()
        until = time.perf_counter() + seconds
        times = [one_pass()]
        while time.perf_counter() < until:
            times.append(one_pass())
    return Timing(str(where), batch_size, float(np.median(times)),
                  float(np.percentile(times, 95)), len(times))


def table(stats: ModelStats, depth: int = 2) -> Any:
    """Return the per-module costs as a rich table, down to ``depth`` modules inside each other."""
    from rich.table import Table

    shape = 'x'.join(map(str, stats.input_shape))
    shown = Table(title=f'one forward pass of {shape}', title_justify='left')
    for title in ('module', 'class'):
        shown.add_column(title, no_wrap=True)
    for title in ('parameters', 'FLOPs', 'activations', 'output'):
        shown.add_column(title, justify='right')
    for row in stats.modules:
        if row.depth <= depth:
            name = '  ' * row.depth + (row.name.rpartition('.')[2] or 'model')
            shown.add_row(name, row.kind, in_units(row.params), in_units(row.flops),
                          in_units(row.activations, 'B'), row.output)
    return shown


def in_units(value: float, unit: str = '') -> str:
    """Return a count with three digits: ``11.7 M``."""
    for prefix, size in (('T', 1e12), ('G', 1e9), ('M', 1e6), ('k', 1e3)):
        if abs(value) >= size:
            return f'{value / size:.3g} {prefix}{unit}'
    return f'{value:.3g} {unit}'.rstrip()


__all__ = [
    'ModelStats', 'ModuleStats', 'Timing', 'config_stats', 'count', 'in_units', 'input_shape_of',
    'make_inputs', 'measure', 'table',
]
