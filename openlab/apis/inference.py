"""Images in, predictions out: a trained model as a function.

    predict = openlab.Inferencer('work_dirs/my_run')
    samples = predict('photos/', batch_size=32, out_dir='results')

The pipeline and the preprocessor are those with which the model was tested.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from openlab import device as chips
from openlab.apis.gallery import Gallery
from openlab.apis.image_inputs import BadInput, ChannelOrder, InputImage, count, read
from openlab.apis.probe import embedder
from openlab.apis.result_files import ResultFiles
from openlab.config import load_config
from openlab.config.build import build, resolve_type
from openlab.data.collate import collate as default_collate
from openlab.data.errors import DataError
from openlab.data.transforms.base import Compose
from openlab.data.transforms.geometry import move_boxes, move_points, warp
from openlab.engine.checkpoint_files import CheckpointError, read_metadata, resolve_checkpoint
from openlab.engine.environment import setup_environment
from openlab.engine.loading import LoadReport, load_weights
from openlab.engine.model_setup import to_device
from openlab.engine.precision import Precision, autocast
from openlab.registry import MODELS, TRANSFORMS
from openlab.structures.data_sample import DataSample
from openlab.zoo.recipe import is_zoo_name, recipe_of
from openlab.zoo.sources import fetch, is_address

CONFIG_SUFFIXES = ('.py', '.yaml', '.yml', '.json', '.toml')
# How many batches of other sizes may wait until images of one size make a full batch.
WAITING_BATCHES = 4


@dataclass
class Recipe:
    """What it takes to run a model.

    Attributes:
        cfg: the config, checked or as saved in a checkpoint.
        weights: where its weights are; a state dict works too.
        metadata: what the checkpoint says about itself.
        name: what to call it.
        part: the module that the weights fill, if not the whole model.
    """

    cfg: Mapping[str, Any]
    weights: Any
    metadata: dict[str, Any]
    name: str
    part: str | None = None


class Inferencer:
    """A model with its weights, ready for images of any kind.

    Args:
        config: a config (file, shipped name or loaded), or what holds one: the folder of a run
            (its best checkpoint, else its last), a checkpoint folder or its ``.safetensors``;
            or a name of the zoo, whose preprocessing and classes come with it.
        weights: anything ``load_weights`` takes; by default those of the checkpoint, or of the
            newest run of the config.
        device: ``'cpu'``, ``'cuda:0'`` ...; by default the one this machine has.
        classes: names of the classes; by default those the checkpoint knows.
        precision: ``'fp32'``, ``'bf16'`` or ``'fp16'``.
        overrides: edits of a config file, as on the command line.
        gallery: images to search through (whatever a call takes): each prediction then names
            those most alike, by the cosine of what ``extract_features`` takes of a model, instead
            of a class. Any network will do, backbones without a head too.

    Attributes:
        model: the network, in evaluation mode.
        classes: names of the classes, empty where unknown.
        report: what was loaded.
        gallery: the images to search through.
        skipped: name and reason of each input of the last call that was passed over.
        results_file: the JSON that the last call wrote.
    """

    def __init__(
        self,
        config: str | Path | Mapping[str, Any],
        weights: str | Path | Mapping[str, Tensor] | None = None,
        *,
        device: str | torch.device | None = None,
        classes: Sequence[str] | None = None,
        precision: Precision = 'fp32',
        overrides: Sequence[str] = (),
        gallery: Any = None,
    ):
        self.device = chips.get_device() if device is None else chips.check_device(device)
        recipe = find_recipe(config, weights, overrides, with_parts=gallery is not None)
        self.cfg = recipe.cfg
        self.name = recipe.name
        setup_environment(self.cfg.get('custom_imports'))
        self.model: nn.Module = build(self.cfg['model'], MODELS, 'model')
        filled = getattr(self.model, recipe.part) if recipe.part else self.model
        self.report: LoadReport = load_weights(filled, recipe.weights)
        self.model.to(self.device).eval()
        found = self.report.metadata.get('classes') or recipe.metadata.get('classes')
        self.classes = tuple(classes or found or _classes_in(self.cfg))
        self._check_classes()
        if self.classes and hasattr(self.model, 'describe') and gallery is None:
            self.model.describe(self.classes)
        self.pipeline = Compose(inference_pipeline(self.cfg))
        self.skipped: list[tuple[str, str]] = []
        self.results_file: Path | None = None
        self._collate = _collate_of(self.cfg)
        self._autocast: Callable[[], AbstractContextManager[Any]] = autocast(
            self.device.type, precision)
        self._embed = None if gallery is None else embedder(self.model)
        self.gallery: Gallery | None = None
        if gallery is not None:
            self.gallery = self._gallery_of(gallery)

    def __call__(self, images: Any, batch_size: int = 16, out_dir: str | Path | None = None,
                 **options: Any) -> list[DataSample]:
        """Predict on all images.

        Args:
            images: a path, folder, glob, video, RGB array (H, W, 3), tensor (3, H, W), PIL image
                or encoded bytes; or an iterable of any of these.
            batch_size: images that go through the network together.
            out_dir: where to save drawings and ``results.json``.
            **options: see ``stream``.

        Returns:
            A sample for each image, in order, on the CPU. Boxes, points and masks are in pixels
            of the original image; ``meta`` has ``classes``, and ``class_name`` where there is a
            label. Of a search, ``extra`` has ``embedding`` (D,), ``matches`` (places in the
            gallery, the most alike first) and ``match_scores`` (their cosines), ``meta`` their
            names as ``matches``.
        """
        return list(self.stream(images, batch_size, out_dir, **options))

    def stream(
        self,
        images: Any,
        batch_size: int = 16,
        out_dir: str | Path | None = None,
        *,
        on_error: Literal['raise', 'skip'] = 'raise',
        channel_order: ChannelOrder = 'rgb',
        draw: bool = True,
        topk: int = 5,
        progress: bool | None = None,
    ) -> Iterator[DataSample]:
        """The same, sample by sample: takes endless inputs and keeps none of them.

        Args:
            images: see ``__call__``.
            batch_size: images that go through the network together.
            out_dir: where to save drawings and, at the end, ``results.json``.
            on_error: ``'raise'`` at an input that cannot be read, or ``'skip'`` it and list it in
                ``skipped``.
            channel_order: of arrays and tensors: ``'rgb'``, or ``'bgr'`` as OpenCV reads.
            draw: save drawings besides the JSON.
            topk: class probabilities to list in the JSON.
            progress: show a bar; by default on a terminal and for more than one batch.
        """
        if batch_size < 1:
            raise ValueError(f'batch_size must be at least 1, not {batch_size}')
        if on_error not in ('raise', 'skip'):
            raise ValueError(f"on_error must be 'raise' or 'skip', not {on_error!r}")
        self.skipped = []
        files = None if out_dir is None else ResultFiles(out_dir, self._info(), topk, draw,
                                                         self.gallery)
        inputs = self._readable(read(images, channel_order), on_error)
        with _progress(images, batch_size, progress) as advance:
            for source, sample in self._predicted(inputs, batch_size):
                if files is not None:
                    files.add(source, sample)
                advance()
                yield sample
        if files is not None:
            self.results_file = files.close(self.skipped)

    def _gallery_of(self, images: Any) -> Gallery:
        """Embed the images to search through."""
        gallery = Gallery()
        inputs = self._readable(read(images), 'raise')
        with _progress(images, 1, None, 'gallery') as advance:
            for source, sample in self._predicted(inputs, 16):
                gallery.add(source.name, source.image, sample.extra['embedding'])
                advance()
        gallery.close()
        return gallery

    def _readable(self, inputs: Iterable[InputImage | BadInput],
                  on_error: str) -> Iterator[InputImage]:
        for one in inputs:
            if isinstance(one, InputImage):
                yield one
            elif on_error == 'raise':
                raise one.error
            else:
                self.skipped.append((one.name, str(one.error)))

    def _predicted(self, inputs: Iterable[InputImage],
                   batch_size: int) -> Iterator[tuple[InputImage, DataSample]]:
        """Predictions in the order of the inputs, although batches are made of equal sizes.

        Images of different sizes would be padded in one batch, and their results would depend
        on their neighbours.
        """
        waiting: dict[Any, list[tuple[int, InputImage, dict[str, Any]]]] = {}
        done: dict[int, tuple[InputImage, DataSample]] = {}
        following = 0
        for number, source in enumerate(inputs):
            item = self.prepare(source)
            group = waiting.setdefault(_shape(item['inputs']), [])
            group.append((number, source, item))
            if len(group) == batch_size:
                done |= self._run(waiting.pop(_shape(item['inputs'])))
            elif sum(map(len, waiting.values())) >= WAITING_BATCHES * batch_size:
                oldest = min(waiting, key=lambda shape: waiting[shape][0][0])
                done |= self._run(waiting.pop(oldest))
            while following in done:
                yield done.pop(following)
                following += 1
        for group in waiting.values():
            done |= self._run(group)
        yield from (done[number] for number in sorted(done))

    def prepare(self, source: InputImage) -> dict[str, Any]:
        """Run the pipeline on one image: ``{'inputs': tensor, 'sample': DataSample}``."""
        results: dict[str, Any] = {
            'img': source.image.copy(),  # drawings want it as it was
            'ori_shape': source.image.shape[:2],
            'img_shape': source.image.shape[:2],
        }
        if source.path is not None:
            results['img_path'] = source.path
        item = self.pipeline(results)
        if item is None or 'inputs' not in item:
            raise DataError(f'the test pipeline gives no inputs for {source.name}')
        item['sample'].meta['name'] = source.name
        if source.frame is not None:
            item['sample'].meta['frame'] = source.frame
        return item

    @torch.no_grad()
    def _run(self, group: list[tuple[int, InputImage, dict[str, Any]]]
             ) -> dict[int, tuple[InputImage, DataSample]]:
        batch = self._collate([item for _, _, item in group])
        preprocessor = getattr(self.model, 'preprocessor', None)
        batch = (to_device(batch, self.device) if preprocessor is None
                 else preprocessor(batch, False))
        with self._autocast():
            predictions = (self.model(**batch, mode='predict') if self._embed is None
                           else self._search(self._embed(batch['inputs']), batch['samples']))
        return {
            number: (source, self._finished(prediction))
            for (number, source, _), prediction in zip(group, predictions)
        }

    def _search(self, embeddings: Tensor, samples: Sequence[DataSample]) -> list[DataSample]:
        """What of the gallery, as far as there is one yet, is like each image."""
        found = [DataSample(meta=dict(sample.meta), extra={'embedding': embedding.float()})
                 for sample, embedding in zip(samples, embeddings)]
        if self.gallery is not None:
            for sample, scores, matches in zip(found, *self.gallery.search(embeddings)):
                sample.extra |= {'matches': matches, 'match_scores': scores}
                sample.meta['matches'] = [self.gallery.names[int(i)] for i in matches]
        return found

    def _finished(self, sample: DataSample) -> DataSample:
        """On the CPU, in pixels of the original image, with names."""
        sample = to_original(sample.to('cpu'))
        sample.meta['classes'] = self.classes
        if sample.label is not None and self.classes:
            sample.meta['class_name'] = self.classes[int(sample.label)]
        if sample.labels is not None and self.classes:
            sample.meta['class_names'] = [self.classes[int(i)] for i in sample.labels]
        return sample

    def _info(self) -> dict[str, Any]:
        return {'model': self.name, 'weights': self.report.source, 'classes': list(self.classes)}

    def _check_classes(self) -> None:
        wanted = getattr(getattr(self.model, 'head', None), 'num_classes', None)
        if self.classes and isinstance(wanted, int) and wanted != len(self.classes):
            raise ValueError(
                f'{len(self.classes)} class names ({", ".join(self.classes[:5])} ...) for a model '
                f'of {wanted} classes'
            )


def find_recipe(config: Any, weights: Any = None, overrides: Sequence[str] = (),
                with_parts: bool = False) -> Recipe:
    """Find config and weights from what a user gives.

    Args:
        config: see ``Inferencer``.
        weights: see ``Inferencer``.
        overrides: edits of a config file.
        with_parts: take weights of the zoo that fill a part of a network only.

    Raises:
        FileNotFoundError: if there is nothing of that name.
        ValueError: if weights or config are missing.
    """
    if isinstance(config, Mapping):
        cfg = config
    elif is_zoo_name(config):
        found = recipe_of(config, overrides, with_parts)
        chosen = found.weights if weights is None else _best_of(weights)
        return Recipe(found.cfg, chosen, {'classes': found.classes}, found.name,
                      found.part if weights is None else None)
    elif _names_checkpoint(Path(config)):
        return _from_checkpoint(Path(config), weights, overrides)
    else:
        cfg = load_config(config, overrides)
    name = Path(getattr(cfg, 'filename', '') or 'config').stem
    if weights is not None:
        return Recipe(cfg, _best_of(weights), {}, name)
    work_dir = Path(cfg.get('work_dir') or f'work_dirs/{name}')
    if (work_dir / 'checkpoints').is_dir():
        return Recipe(cfg, _best_of(work_dir), {}, name)
    load_from = cfg.get('load_from')
    if load_from:
        source = load_from['source'] if isinstance(load_from, Mapping) else load_from
        return Recipe(cfg, source, {}, name)
    raise ValueError(
        f'no weights for {name}: give weights=..., or the folder of a run instead of its config '
        f'(there is no {work_dir / "checkpoints"})'
    )


def _names_checkpoint(path: Path) -> bool:
    return path.is_dir() or (path.is_file() and path.suffix not in CONFIG_SUFFIXES) or (
        not path.suffix and path.with_suffix('.json').is_file())  # the pointers best and last


def _from_checkpoint(path: Path, weights: Any, overrides: Sequence[str]) -> Recipe:
    if overrides:
        raise ValueError('overrides edit a config file; this config comes from a checkpoint')
    folder = _best_of(path)
    metadata: dict[str, Any] = {}
    if folder.is_dir() or folder.suffix == '.safetensors':
        metadata = read_metadata(folder)
    if not metadata.get('config'):
        raise CheckpointError(
            f'{folder} does not say which config it was made with; give the config, and this as '
            'weights'
        )
    chosen = folder if weights is None else _best_of(weights)
    return Recipe(metadata['config'], chosen, metadata, str(path))


def _best_of(source: Any) -> Any:
    """The best checkpoint of a run folder, else its last; any other source as it is."""
    if isinstance(source, Mapping):
        return source
    path = fetch(source) if is_address(source) else Path(source)
    for parent in (path / 'checkpoints', path):
        if (parent / 'best.json').is_file():
            return resolve_checkpoint(parent / 'best')
    return resolve_checkpoint(path)


def inference_pipeline(cfg: Mapping[str, Any]) -> list[Any]:
    """The built transforms of the test pipeline, less those that read the truth.

    Raises:
        ValueError: if the config has no pipeline for test, validation or training.
    """
    for stage in ('test', 'val'):
        dataset = (cfg.get(f'{stage}_dataloader') or {}).get('dataset')
        path = f'{stage}_dataloader.dataset'
        while isinstance(dataset, Mapping) and 'pipeline' not in dataset:
            dataset, path = dataset.get('dataset'), f'{path}.dataset'
        if isinstance(dataset, Mapping):
            steps = [
                build(step, TRANSFORMS, f'{path}.pipeline[{i}]')
                for i, step in enumerate(dataset['pipeline'])
            ]
            return [s for s in steps if not _reads_truth(s)]
    raise ValueError(
        'the config has no test_dataloader.dataset.pipeline (nor that of val_dataloader), which '
        'says how images are prepared'
    )


def _reads_truth(step: Any) -> bool:
    name = type(step).__name__
    return name.startswith('Load') and name != 'LoadImage'


def _classes_in(cfg: Mapping[str, Any]) -> Sequence[str]:
    for stage in ('test', 'val', 'train'):
        dataset = (cfg.get(f'{stage}_dataloader') or {}).get('dataset')
        while isinstance(dataset, Mapping):
            if dataset.get('classes'):
                return dataset['classes']
            dataset = dataset.get('dataset')
    return ()


def _collate_of(cfg: Mapping[str, Any]) -> Callable[[list[Any]], Any]:
    given = (cfg.get('test_dataloader') or cfg.get('val_dataloader') or {}).get('collate')
    return default_collate if given is None else resolve_type(given, TRANSFORMS)


def to_original(sample: DataSample) -> DataSample:
    """Move boxes, points, masks and maps from the network's image to the original one."""
    matrix, shape = sample.meta.get('matrix'), sample.meta.get('ori_shape')
    sample = replace(sample, meta=dict(sample.meta))
    if matrix is None or shape is None:
        return sample
    back = np.linalg.inv(np.asarray(matrix, dtype=np.float64))
    size = (int(shape[0]), int(shape[1]))
    if sample.boxes is not None:
        boxes = torch.from_numpy(move_boxes(sample.boxes.float().numpy(), back))
        boxes[:, 0::2] = boxes[:, 0::2].clamp(0, size[1])
        boxes[:, 1::2] = boxes[:, 1::2].clamp(0, size[0])
        sample.boxes = boxes
    if sample.keypoints is not None:
        points = sample.keypoints.clone()
        points[..., :2] = torch.from_numpy(move_points(points[..., :2].numpy(), back))
        sample.keypoints = points
    if sample.masks is not None:
        moved = [_warp_map(mask, back, size, 0) for mask in sample.masks]
        sample.masks = torch.stack(moved).bool() if moved else sample.masks.new_zeros((0, *size))
    if sample.semantic_map is not None:
        sample.semantic_map = _warp_map(sample.semantic_map, back, size, 255)
    for key in ('matrix', 'scale_factor', 'pad_shape', 'flip', 'flip_direction'):
        sample.meta.pop(key, None)
    sample.meta['img_shape'] = size
    return sample


def _warp_map(values: Tensor, matrix: np.ndarray, size: tuple[int, int], fill: int) -> Tensor:
    array = values.numpy().astype(np.int16)
    return torch.from_numpy(warp(array, matrix, size, 'nearest', fill).astype(np.int64))


def _shape(inputs: Any) -> Any:
    return tuple(inputs.shape) if isinstance(inputs, Tensor) else None


@contextmanager
def _progress(images: Any, batch_size: int, wanted: bool | None,
              title: str = 'predict') -> Iterator[Callable[[], None]]:
    total = count(images) if wanted is not False else None
    if wanted is None:
        wanted = sys.stderr.isatty() and (total is None or total > batch_size)
    if not wanted:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (title, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda: bar.advance(task)



