"""``openlab visualize``: pictures of what a model sees and of what it is given."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

HELP = 'predictions beside their truth; features, Grad-CAM, schedules, augmentations, t-SNE'
CONFIG = 'a config file, or the name of a shipped one'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    commands = parser.add_subparsers(
        dest='what', required=True,
        metavar='{features,cam,schedule,augment,tsne,predictions,confusion}')

    def command(name: str, text: str, default_out: str,
                kind: str = 'PNG') -> argparse.ArgumentParser:
        new = commands.add_parser(name, help=text, description=text)
        new.add_argument('config', metavar='CONFIG', help=CONFIG)
        new.add_argument('--set', '--cfg-options', dest='overrides', nargs='+', action='extend',
                         default=[], metavar='KEY=VALUE', help='change the config')
        what = 'file' if kind == 'PNG' else 'folder'
        new.add_argument('--out', default=default_out, metavar=kind,
                         help=f'{what} to write (default: {default_out})')
        return new

    def with_items(new: argparse.ArgumentParser, count: int, split: str = 'val') -> None:
        new.add_argument('--weights', metavar='PATH', help='checkpoint, run folder or weight file')
        new.add_argument('--split', choices=('train', 'val', 'test'), default=split)
        new.add_argument('--num', type=int, default=count, metavar='N',
                         help=f'items, spread evenly over the split (default: {count})')
        new.add_argument('--indices', type=int, nargs='+', metavar='I',
                         help='these items instead')

    features = command('features', 'feature maps of the backbone or of named layers',
                       'features.png')
    with_items(features, 1)
    features.add_argument('--layers', nargs='+', metavar='NAME', help='names of modules')
    features.add_argument('--channels', type=int, default=7, metavar='N',
                          help='channels of each layer to show')

    cam = command('cam', 'Grad-CAM: where in the image a class score comes from', 'cam.png')
    with_items(cam, 8)
    cam.add_argument('--target', metavar='CLASS',
                     help='class to explain, by name or index (default: the predicted one)')
    cam.add_argument('--layer', metavar='NAME', help='module whose output is weighed')

    schedule = command('schedule', 'learning rate over a training, without training',
                       'schedule.png')
    schedule.add_argument('--iters-per-epoch', type=int, metavar='N',
                          help='instead of reading the training data')

    augment = command('augment', 'one image as the training sees it, epoch after epoch',
                      'augment.png')
    augment.add_argument('--split', choices=('train', 'val', 'test'), default='train')
    augment.add_argument('--index', type=int, default=0, metavar='I', help='which item')
    augment.add_argument('--num', type=int, default=15, metavar='N', help='how many views')

    tsne = command('tsne', 'features of many images as points in the plane', 'tsne.png')
    with_items(tsne, 1000)
    tsne.add_argument('--layer', metavar='NAME', help='module (default: the backbone)')
    tsne.add_argument('--perplexity', type=float, default=30.0)

    predictions = command(
        'predictions', 'predictions beside their truth, worst first: a sheet and a page',
        'predictions', 'DIR')
    _add_prediction_arguments(predictions, with_items)

    confusion = command('confusion', 'confusion matrix', 'confusion.png')
    with_items(confusion, 10_000)


def _add_prediction_arguments(predictions: argparse.ArgumentParser, with_items: Any) -> None:
    add = predictions.add_argument
    add('positional_weights', metavar='WEIGHTS', nargs='?',
        help='checkpoint, run folder or weight file')
    with_items(predictions, 512)
    add('--from-dump', metavar='FILE',
        help='instead of a model, predictions written by openlab test --dump')
    add('--images', metavar='DIR',
        help='folder of the images of a dump, where they are not at their old paths')
    add('--task', choices=('classification', 'detection', 'instance', 'semantic', 'panoptic'),
        help='what to compare (default: the richest that model and truth both give)')
    add('--score-threshold', type=float, metavar='S',
        help='objects below it count as not predicted (default: 0.3; panoptic: 0)')
    add('--limit', type=int, default=200, metavar='N',
        help='most images of the page, the worst ones; 0 for all (default: 200)')
    add('--max-shown', type=int, metavar='N',
        help='most images of the sheet (default: 48 with labels, 24 with objects or maps)')
    add('--no-metrics', action='store_true', help="leave out the config's metrics")
    add('--image-size', type=int, default=640, metavar='PX',
        help='longest side of the images in the page (default: 640)')


def run(args: argparse.Namespace) -> int:
    """Draw one picture, or a sheet and a page, and print the path of each."""
    from openlab.config import load_config

    cfg = load_config(args.config, args.overrides)
    if args.what == 'predictions':
        for path in _predictions(args, cfg):
            print(path)
        return 0
    print(DRAW[args.what](args, cfg))
    return 0


def _items(args: argparse.Namespace, cfg: Any) -> Any:
    from openlab.apis import visualization as source

    loader = source.build_loader(cfg, args.split)
    if args.num < 1:
        raise ValueError(f'--num must be at least 1, not {args.num}')
    return source.read_items(loader, args.indices or source.spread(len(loader.source), args.num))


def _model(args: argparse.Namespace, cfg: Any) -> Any:
    from openlab.apis.visualization import build_model

    if args.weights is None:
        import sys

        print('no --weights: the model has its initial values', file=sys.stderr)
    return build_model(cfg, args.weights)


def _write(out: str, picture: Any) -> Path:
    from openlab.apis.summary import write_png

    return write_png(Path(out), picture)


def _features(args: argparse.Namespace, cfg: Any) -> Path:
    import numpy as np

    from openlab.apis.visualization import network_inputs
    from openlab.visualization.features import draw_features, feature_maps

    items, model = _items(args, cfg), _model(args, cfg)
    rows = []
    number = 0
    for inputs in network_inputs(model, items):
        maps = feature_maps(model, inputs, args.layers)
        for i in range(len(inputs)):
            rows.append(draw_features(items.images[number], {n: m[i] for n, m in maps.items()},
                                      channels=args.channels))
            number += 1
    return _write(args.out, np.concatenate(rows))


def _cam(args: argparse.Namespace, cfg: Any) -> Path:
    from openlab.apis.visualization import network_inputs, predict
    from openlab.visualization.cam import draw_cam, grad_cam
    from openlab.visualization.draw import (
        add_caption,
        draw_grid,
        draw_sample,
        label_caption,
    )

    items, model = _items(args, cfg), _model(args, cfg)
    target = None if args.target is None else class_index(args.target, items.classes)
    predictions = predict(model, items)
    cams = [cam for inputs in network_inputs(model, items)
            for cam in grad_cam(model, inputs, target, args.layer)]
    pairs = []
    for image, prediction, truth, cam in zip(items.images, predictions, items.truths, cams):
        caption = label_caption(prediction, items.classes, truth)
        plain = draw_sample(image, type(prediction)())
        height, width = image.shape[:2]
        heat = draw_cam(image, cam[:height, :width])  # without the padding of the batch
        pairs.append(draw_grid([add_caption(plain, caption), heat], 2, pad=4))
    title = 'Grad-CAM of the predicted class' if target is None else f'Grad-CAM of {args.target}'
    return _write(args.out, draw_grid(pairs, min(4, len(pairs)), header=title))


def _schedule(args: argparse.Namespace, cfg: Any) -> Path:
    from openlab.apis.visualization import schedule_values
    from openlab.visualization.schedules import draw_schedule

    values, per_epoch = schedule_values(cfg, args.iters_per_epoch)
    return draw_schedule(values, args.out, iters_per_epoch=per_epoch,
                         title=Path(args.config).stem)


def _augment(args: argparse.Namespace, cfg: Any) -> Path:
    from openlab.apis import visualization as source
    from openlab.visualization.draw import add_caption, draw_grid, draw_sample
    from openlab.visualization.text import BLACK

    loader = source.build_loader(cfg, args.split)
    classes = loader.metainfo.get('classes')
    views = source.augmented_views(loader, args.index, args.num)
    pictures = [add_caption(draw_sample(image, _without_label(truth), classes, min_side=160),
                            [(f'epoch {i}', BLACK)])
                for i, (image, truth) in enumerate(views, start=1)]
    original = source.original_image(loader.source, args.index)
    if original is not None:
        bare = draw_sample(original, type(views[0][1])(), min_side=160)
        pictures.insert(0, add_caption(bare, [('original', BLACK)]))
    label = views[0][1].label
    name = '' if label is None or not classes else f', {classes[int(label)]}'
    return _write(args.out, draw_grid(pictures, header=f'Item {args.index} of {args.split}{name}'))


def _tsne(args: argparse.Namespace, cfg: Any) -> Path:
    from openlab.apis.visualization import pooled_features
    from openlab.visualization.draw import label_of
    from openlab.visualization.embedding import draw_embedding, embed

    items, model = _items(args, cfg), _model(args, cfg)
    labels = [(label_of(truth) or (0, None))[0] for truth in items.truths]
    points = embed(pooled_features(model, items, args.layer), perplexity=args.perplexity)
    return draw_embedding(points, labels, items.classes, args.out,
                          title=f't-SNE of {args.layer or "backbone"}')


def _predictions(args: argparse.Namespace, cfg: Any) -> list[Path]:
    import sys

    from openlab.apis.prediction_report import REPORT, SHEET, collect
    from openlab.apis.summary import write_png

    pairs, report, measure, origin = _report_source(args, cfg)
    collect(pairs, report)
    title = f'{Path(args.config).stem}: predictions on {origin}'
    out = Path(args.out)
    single = out.suffix.lower() if out.suffix.lower() in ('.png', '.html') else None
    written = []
    if single != '.html':
        written.append(write_png(out if single else out / SHEET, report.sheet(title)))
    if single != '.png':
        written.append(report.write_page(out if single else out / REPORT, title, measure()))
    for note in (report.words(), *report.notes()):
        print(note, file=sys.stderr)
    return written


def _report_source(args: argparse.Namespace, cfg: Any) -> tuple[Any, Any, Any, str]:
    """Pairs, an empty report, what computes the metrics afterwards, and the pairs' origin."""
    from functools import partial

    from openlab.apis import visualization as source
    from openlab.apis.evaluation import evaluate_dump
    from openlab.apis.prediction_report import (
        ModelPairs,
        PredictionReport,
        dumped_pairs,
        evaluator_of,
    )
    from openlab.visualization.report import ReportOptions

    if args.weights and args.positional_weights:
        raise ValueError('weights are given twice, as WEIGHTS and with --weights')
    args.weights = args.weights or args.positional_weights
    if args.from_dump and (args.weights or args.indices):
        raise ValueError('--from-dump reads predictions: it goes with neither weights nor '
                         '--indices')
    if args.images and not args.from_dump:
        raise ValueError('--images goes with --from-dump; a model reads the images of the config')
    if args.limit < 0:
        raise ValueError(f'--limit must be 0 or more, not {args.limit}')
    least = 0.05 if args.score_threshold is None else min(0.05, args.score_threshold)
    settings = dict(task=args.task, score_threshold=args.score_threshold,
                    limit=args.limit or None, sheet_items=args.max_shown,
                    options=ReportOptions(image_size=args.image_size, min_score=least))
    if args.from_dump:
        split = 'test' if cfg.get('test_dataloader') else 'val'
        pairs, meta = dumped_pairs(args.from_dump, args.images,
                                   lambda: source.build_loader(cfg, split).source)
        report = PredictionReport(meta.get('classes') or None, meta.get('palette'), **settings)
        measure = dict if args.no_metrics else partial(evaluate_dump, cfg, args.from_dump)
        return pairs, report, measure, Path(args.from_dump).name
    if args.num < 1:
        raise ValueError(f'--num must be at least 1, not {args.num}')
    loader = source.build_loader(cfg, args.split)
    indices = args.indices or source.spread(len(loader.source), args.num)
    evaluator = None if args.no_metrics else evaluator_of(cfg, args.split, loader)
    model_pairs = ModelPairs(_model(args, cfg), loader, indices, loader.batch_size or 16, evaluator)
    report = PredictionReport(model_pairs.classes, loader.metainfo.get('palette'), **settings)
    return model_pairs, report, dict if evaluator is None else evaluator.evaluate, (
        f'{len(indices)} of {len(loader.source)} items of {args.split}'
        if len(indices) < len(loader.source) else f'all {len(indices)} items of {args.split}')


def _confusion(args: argparse.Namespace, cfg: Any) -> Path:
    from openlab.apis.visualization import predict
    from openlab.visualization.confusion import confusion_matrix, draw_confusion
    from openlab.visualization.draw import label_of

    items, model = _items(args, cfg), _model(args, cfg)
    pairs = [(label_of(t), label_of(p)) for t, p in zip(items.truths, predict(model, items))]
    known = [(t[0], p[0]) for t, p in pairs if t is not None and p is not None]
    if not known:
        raise ValueError('a confusion matrix needs class labels, which this task does not have')
    count = len(items.classes) if items.classes else max(map(max, known)) + 1
    matrix = confusion_matrix([t for t, _ in known], [p for _, p in known], count)
    return draw_confusion(matrix, items.classes, args.out,
                          title=f'{len(known)} items of {args.split}')


def class_index(name: str, classes: Any) -> int:
    """Index of a class given by name or number.

    Raises:
        ValueError: if there is none; the message lists near names.
    """
    import difflib

    names = [str(c) for c in classes or ()]
    if name in names:
        return names.index(name)
    if name.isdigit() and (not names or int(name) < len(names)):
        return int(name)
    near = difflib.get_close_matches(name, names, n=3)
    hint = f'; did you mean {" or ".join(near)}?' if near else (
        f'; there are {len(names)}: {", ".join(names[:10])} ...')
    raise ValueError(f'no class {name!r}{hint}')


def _without_label(sample: Any) -> Any:
    """A copy with objects and maps only: each view has the same label, given once above."""
    from dataclasses import replace

    return replace(sample, label=None, label_probs=None)


DRAW = {'features': _features, 'cam': _cam, 'schedule': _schedule, 'augment': _augment,
        'tsne': _tsne, 'confusion': _confusion}
