"""Any image classifier of torchvision as a backbone, under the name that torchvision gives it.

https://docs.pytorch.org/vision/stable/models.html; the network is traced (torch.fx) to find its
maps, and cut down to what they need.

B batch · C channels · H, W height and width of the image · h, w those of a map · N tokens
"""

from __future__ import annotations

import contextlib
import inspect
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from openlab.backbones.outside import library_maps, near_names
from openlab.registry import MODELS
from openlab.utils.offline import OFFLINE_VARIABLE, is_offline

# Networks that take images of one size, and their argument for it.
_SIZE_ARGUMENTS = {'VisionTransformer': 'image_size', 'MaxVit': 'input_size'}
_COARSEST = 6  # maps are not looked for beyond stride 2^6: what is coarser comes from pooling


@dataclass(frozen=True)
class _Node:
    """One operation of a network: its output's shape, and what kind of map that is, if any."""

    name: str
    shape: tuple[int, ...]
    kind: Literal['channels_first', 'channels_last', 'tokens', ''] = ''
    stride: int = 0
    num_prefix: int = 0

    @property
    def channels(self) -> int:
        """Channels, wherever the shape has them."""
        return self.shape[1] if self.kind == 'channels_first' else self.shape[-1]


@MODELS.register_module()
class TorchvisionBackbone(nn.Module):
    """An image classifier of torchvision.

    Args:
        name: name of the network, as ``torchvision.models.list_models()`` prints it.
        pretrained: name of the weights that torchvision downloads (``'IMAGENET1K_V2'``), or True
            for its best ones. Nothing is downloaded otherwise; ``load_from='torchvision://NAME'``
            in a config goes through the zoo.
        output: ``'maps'``, or ``'pooled'``: the vector (B, C) that torchvision's own classifier
            gets, so that a ``LinearHead`` makes it the whole published network.
        out_stages: maps that come out, rising; stage k is the map at stride 2^k with which the part
            of the network that goes on to coarser maps begins, or else the last map.
        nodes: or the names of what comes out, such as ``('layer3', 'layer4')``, from
            ``torchvision.models.feature_extraction.get_graph_node_names``. By default the last map.
        image_size: height and width of images, for networks that take one size only.
        options: more arguments of the network, such as ``replace_stride_with_dilation``.

    Attributes:
        out_channels: channels of each map that comes out.
        strides: input pixels per step of each map, to the nearest power of 2; for a vector, those
            of the last map.
        net: what is left of the network.
    """

    weights = library_maps('torchvision', (r'^(?!\.\./)', 'net.'))

    def __init__(
        self,
        name: str,
        pretrained: bool | str = False,
        output: Literal['maps', 'pooled'] = 'maps',
        out_stages: Sequence[int] | None = None,
        nodes: Sequence[str] | None = None,
        image_size: int | None = None,
        options: dict[str, Any] | None = None,
    ):
        super().__init__()
        from torchvision.models import get_model
        from torchvision.models.feature_extraction import create_feature_extractor

        if output not in ('maps', 'pooled'):
            raise ValueError(
                f"TorchvisionBackbone knows the outputs 'maps' and 'pooled', not {output!r}")
        if (out_stages is not None) + (nodes is not None) + (output == 'pooled') > 1:
            raise ValueError("give only one of out_stages, nodes and output='pooled'")
        _check_name(name)
        arguments = dict(options or {})
        with torch.device('meta'):
            net = _quiet(get_model, name, weights=None, **arguments)
        size_argument = _SIZE_ARGUMENTS.get(type(net).__name__)
        if image_size is not None:
            if size_argument is None:
                raise ValueError(f'{name} takes images of any size; leave image_size out')
            arguments[size_argument] = (
                image_size if size_argument == 'image_size' else (image_size, image_size))
            with torch.device('meta'):
                net = _quiet(get_model, name, weights=None, **arguments)

        self.name, self.output = name, output
        self.image_size = (image_size or 224) if size_argument else None
        self.tag = _tag_of(name, pretrained)
        found, ends, vector = _trace(net, self.image_size)
        self._nodes = _pick(name, found, ends, out_stages, nodes)
        self.strides: tuple[int, ...] = tuple(node.stride for node in self._nodes)
        self.out_channels: tuple[int, ...] = tuple(node.channels for node in self._nodes)
        wanted = [node.name for node in self._nodes]
        if output == 'pooled':
            if vector is None:
                raise ValueError(f"{name} has no linear layer at its end; output='maps' gives its "
                                 'last map, whose mean LinearHead takes')
            wanted, self.out_channels = [vector.name], (vector.shape[1],)
        if pretrained and is_offline():
            _check_cached(name, str(self.tag))
        full = _quiet(get_model, name, weights=self.tag if pretrained else None, **arguments)
        self.net = create_feature_extractor(full, wanted, suppress_diff_warning=True)
        self._wanted = tuple(wanted)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps, each (B, C, h, w), or one vector (B, C), of images x (B, 3, H, W)."""
        if self.image_size and tuple(x.shape[2:]) != (self.image_size, self.image_size):
            raise ValueError(
                f'{self.name} takes images of {self.image_size} x {self.image_size} px only, not '
                f'{x.shape[2]} x {x.shape[3]}; resize them, or give image_size')
        found = self.net(x)
        if self.output == 'pooled':
            return (found[self._wanted[0]],)
        return tuple(_as_map(found[node.name], node, x) for node in self._nodes)

    @property
    def preprocessing(self) -> dict[str, Any] | None:
        """How torchvision prepares images for the weights, in the words of the zoo.

        Those of ``pretrained``, or else the ones that ``load_from='torchvision://NAME'`` brings.
        ``openlab.zoo.recipe.apply_preprocessing(cfg, backbone.preprocessing)`` puts it into a
        config. Mean and deviation are on the scale 0 to 255, sizes in pixels. None where nothing
        is published.
        """
        from torchvision.models import get_model_weights

        if self.tag is None:
            return None
        made: Any = get_model_weights(self.name)[self.tag].transforms()  # type: ignore[misc]
        return {'mean': [round(255 * v, 4) for v in made.mean],
                'std': [round(255 * v, 4) for v in made.std],
                'resize': made.resize_size[0], 'crop': made.crop_size[0],
                'interpolation': made.interpolation.value, 'backend': 'pillow'}


def _check_name(name: str) -> None:
    """Refuse names that are no image classifiers, and say what to use.

    Raises:
        ValueError: if torchvision has no such classifier.
    """
    from torchvision import models

    classifiers = models.list_models(module=models)
    if name in classifiers:
        return
    if name in models.list_models():
        raise ValueError(
            f'{name} is no image classifier; openlab has detectors and segmentors of its own, '
            'which take any backbone: openlab registry ls model')
    raise ValueError(f'torchvision has no network {name!r}{near_names(name, classifiers)}')


def _check_cached(name: str, tag: str) -> None:
    """Refuse weights that would have to be downloaded.

    Raises:
        ValueError: if torch's cache lacks them.
    """
    from torchvision.models import get_model_weights

    address = get_model_weights(name)[tag].url  # type: ignore[misc]
    file = Path(torch.hub.get_dir()) / 'checkpoints' / address.rpartition('/')[2]
    if not file.is_file():
        raise ValueError(f'pretrained={tag!r} of {name} is not in the cache ({file}) and '
                         f'{OFFLINE_VARIABLE} is set; unset it once to download {address}')


def _tag_of(name: str, pretrained: bool | str) -> str | None:
    """Name of the weights that are wanted, or of the best ones; None where there are none."""
    from torchvision.models import get_model_weights

    choices = get_model_weights(name)
    known = [weights.name for weights in choices]
    if isinstance(pretrained, str):
        if pretrained not in known:
            raise ValueError(f'{name} has the weights {", ".join(known)}, not {pretrained!r}')
        return pretrained
    return choices.DEFAULT.name if known else None  # type: ignore[attr-defined]


class _CountOnCPU(TorchFunctionMode):
    """Keep small tables on the CPU: RegNets read their widths from some, and meta has no values."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch."""
        kwargs = dict(kwargs or {})
        if func in (torch.arange, torch.tensor):
            kwargs['device'] = 'cpu'
        return func(*args, **kwargs)


def _quiet(make: Any, name: str, **arguments: Any) -> nn.Module:
    """Build without the warning of two networks that their initialisation is slow."""
    counting = _CountOnCPU() if name.startswith('regnet') else contextlib.nullcontext()
    with warnings.catch_warnings(), counting:
        warnings.filterwarnings('ignore', '.*initialization of', FutureWarning)
        return make(name, **arguments)


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps the shape of every tensor."""

    def __init__(self, root: nn.Module, graph: fx.Graph):
        super().__init__(root, graph=graph)
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one operation."""
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.shapes[n] = tuple(value.shape)
        return value


def _trace(
    net: nn.Module, image_size: int | None
) -> tuple[list[_Node], dict[int, _Node], _Node | None]:
    """Run a network on the meta device and look at it.

    Returns:
        All operations in order, the map that ends each stride, what the last linear layer takes.
    """
    import torchvision
    from torchvision.models.feature_extraction import NodePathTracer

    # As create_feature_extractor traces, so that both know the same names.
    leaves = [member for _, member in inspect.getmembers(torchvision.ops, inspect.isclass)
              if issubclass(member, nn.Module)]
    tracer = NodePathTracer(autowrap_modules=(math, torchvision.ops), leaf_modules=leaves)
    net.eval()
    recorder = _Recorder(net, tracer.trace(net))
    # Not square, and large: nothing but a map then has the proportions of the image.
    size = (image_size, image_size) if image_size else (512, 640)
    with torch.device('meta'), torch.no_grad():
        recorder.run(torch.empty(1, 3, *size))
    nodes = {n: _classified(tracer.node_to_qualname[n], shape, size, image_size is None)
             for n, shape in recorder.shapes.items()
             if n in tracer.node_to_qualname and n.op != 'placeholder'}
    modules = dict(net.named_modules())
    vector = None
    for n in nodes:
        if n.op == 'call_module' and isinstance(modules[str(n.target)], nn.Linear):
            source = n.args[0]
            vector = nodes.get(source) if isinstance(source, fx.Node) else None
    if vector is not None and len(vector.shape) != 2:
        vector = None
    return list(nodes.values()), _stage_ends(nodes), vector


def _stage_ends(nodes: dict[fx.Node, _Node]) -> dict[int, _Node]:
    """The map that ends each stride.

    It need not be the last one: a block that halves the resolution may widen the map before.
    So it is what enters the largest module that begins at this stride and gives a coarser map.
    """
    # A classifier of convolutions gives maps too, but of classes.
    maps = {n: node for n, node in nodes.items()
            if node.kind and not node.name.startswith('classifier')}
    ends = {node.stride: node for node in maps.values()}
    for stride in ends:
        first_coarser = next((m for m in maps.values() if m.stride > stride), None)
        if first_coarser is None:
            continue
        parts = first_coarser.name.split('.')
        for depth in range(1, len(parts) + 1):
            inside = '.'.join(parts[:depth])
            entering = {maps[source] for n, node in nodes.items() if _is_inside(node, inside)
                        for source in n.all_input_nodes
                        if source in maps and not _is_inside(maps[source], inside)}
            if len(entering) == 1 and next(iter(entering)).stride == stride:
                ends[stride] = entering.pop()
                break
    return ends


def _is_inside(node: _Node, module: str) -> bool:
    return f'{node.name}.'.startswith(f'{module}.')


def _classified(name: str, shape: tuple[int, ...], size: tuple[int, int], any_size: bool) -> _Node:
    """Tell whether an output is a map, by its proportions."""
    height, width = size
    if len(shape) == 4:
        exact = {2**k: (height / 2**k, width / 2**k) for k in range(_COARSEST + 1)}
        for stride, grid in exact.items():
            if shape[2:] == grid:
                return _Node(name, shape, 'channels_first', stride)
            if shape[1:3] == grid:
                return _Node(name, shape, 'channels_last', stride)
        # Convolutions without padding lose some rows and columns.
        ratios = height / shape[2], width / shape[3]
        powers = {round(math.log2(r)) for r in ratios}
        if any_size and len(powers) == 1 and abs(ratios[0] / ratios[1] - 1) < 0.2:
            power = powers.pop()
            if 0 <= power <= _COARSEST:
                return _Node(name, shape, 'channels_first', 2**power)
    if len(shape) == 3 and not any_size:
        for num_prefix in (0, 1):
            side = math.isqrt(max(shape[1] - num_prefix, 1))
            if side > 1 and side * side == shape[1] - num_prefix and height % side == 0:
                return _Node(name, shape, 'tokens', height // side, num_prefix)
    return _Node(name, shape)


def _pick(name: str, found: list[_Node], ends: dict[int, _Node], out_stages: Sequence[int] | None,
          names: Sequence[str] | None) -> list[_Node]:
    """The wanted maps among all operations of a network."""
    has = f'the maps of {name} are ' + ', '.join(
        f'{node.name} (stride {stride})' for stride, node in ends.items())
    if names is not None:
        return [_named(wanted, found, has) for wanted in names]
    if out_stages is None:
        return [ends[max(ends)]]
    if list(out_stages) != sorted(set(out_stages)) or not out_stages:
        raise ValueError(f'out_stages must rise, not {tuple(out_stages)}')
    missing = [k for k in out_stages if 2**k not in ends]
    if missing:
        raise ValueError(f'{name} has no map at stride {2 ** missing[0]}, which is stage '
                         f'{missing[0]}; {has}')
    return [ends[2**k] for k in out_stages]


def _named(wanted: str, found: list[_Node], has: str) -> _Node:
    """The operation of that name, or the last one inside the module of that name."""
    inside = [node for node in found if _is_inside(node, wanted)]
    if not inside:
        raise ValueError(f'no node {wanted!r}{near_names(wanted, [n.name for n in found])}; {has}')
    if not inside[-1].kind:
        raise ValueError(f'node {wanted!r} gives the shape {inside[-1].shape}, which is no map; '
                         f'{has}')
    return inside[-1]


def _as_map(x: Tensor, node: _Node, image: Tensor) -> Tensor:
    if node.kind == 'channels_last':
        return x.permute(0, 3, 1, 2)
    if node.kind == 'tokens':
        grid = (image.shape[2] // node.stride, image.shape[3] // node.stride)
        return x[:, node.num_prefix:].transpose(1, 2).unflatten(2, grid)
    return x
