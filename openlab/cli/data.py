"""``openlab data check | show | bench | make | convert | import``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openlab.data.dataloader import DataLoader

HELP = 'Check, show and time the data of a config; make, convert and import data.'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands and their arguments."""
    commands = parser.add_subparsers(dest='action', required=True, metavar='ACTION')
    check = commands.add_parser('check', help='classes, items kept and dropped, labels, files')
    check.add_argument('--decode', action='store_true',
                       help='read every image, not only see whether it exists')
    check.add_argument('--first', type=int, default=5, metavar='N',
                       help='examples of each kind of problem (5)')
    show = commands.add_parser('show', help='a picture of augmented items with their labels')
    show.add_argument('--num', type=int, default=24, metavar='N', help='items to draw (24)')
    show.add_argument('--seed', type=int, default=0, metavar='N', help='of the augmentations')
    show.add_argument('--out', metavar='PNG', help='file to write (default: data_SPLIT.png)')
    bench = commands.add_parser('bench', help='images per second per core, by stage')
    bench.add_argument('--num', type=int, default=256, metavar='N', help='images to time (256)')
    _add_make(commands)
    _add_folder_commands(commands)
    for command in (check, show, bench):
        command.add_argument('config', metavar='CONFIG',
                             help='a config file, or the name of a shipped one')
        command.add_argument('--split', choices=('train', 'val', 'test'),
                             help='default: all for check, train for show and bench')
        command.add_argument('--set', '--cfg-options', dest='overrides', nargs='+',
                             action='extend', default=[], metavar='KEY=VALUE',
                             help='change the config, as in train_dataloader.batch_size=4')


def _add_make(commands: Any) -> None:
    make = commands.add_parser('make', help='generate data that every machine has')
    make.add_argument('kind', choices=('digit-scenes',), metavar='KIND',
                      help='digit-scenes: handwritten digits on textures, with boxes, masks and '
                           'maps')
    make.add_argument('--train', type=int, default=2000, metavar='N',
                      help='images to train on (2000)')
    make.add_argument('--val', type=int, default=400, metavar='N', help='images held out (400)')
    make.add_argument('--size', type=int, default=256, metavar='N',
                      help='height and width in pixels (256)')
    make.add_argument('--seed', type=int, default=0, metavar='N', help='of everything drawn (0)')
    make.add_argument('--out', default='data/digit_scenes', metavar='DIR',
                      help='folder to make (data/digit_scenes)')


def _add_folder_commands(commands: Any) -> None:
    convert = commands.add_parser('convert', help='boxes from one layout to another')
    convert.add_argument('folder', metavar='FOLDER', help='data in COCO, VOC or YOLO layout')
    convert.add_argument('out', metavar='OUT', help='folder to make; images are copied')
    convert.add_argument('--to', required=True, choices=('coco', 'voc', 'yolo'), dest='target',
                         help='layout to write')
    importer = commands.add_parser('import', help='recognise a folder and write a config for it')
    importer.add_argument('folder', metavar='FOLDER',
                          help='COCO, VOC, YOLO, image/mask pairs or class folders')
    importer.add_argument('--out', metavar='FILE',
                          help='config to write (default: configs/FOLDER.py)')
    importer.add_argument('--as', dest='kind', metavar='KIND',
                          choices=('coco', 'voc', 'yolo', 'pairs', 'image-folder'),
                          help='where a folder can be read in several ways: coco, voc, yolo, '
                               'pairs or image-folder')


def run_convert(args: argparse.Namespace) -> int:
    """Convert a folder and say what was lost."""
    from openlab.data.convert import convert

    report = convert(args.folder, args.out, args.target, print)
    for part, count in report.num_images.items():
        print(f'{part}: {count} images, {report.num_objects[part]} objects')
    for note in report.notes:
        print(f'note: {note}')
    if report.dropped:
        print(f'left out: {len(report.dropped)}')
        for dropped in report.dropped[:5]:
            print(f'  {dropped}')
    return 0


def run_import(args: argparse.Namespace) -> int:
    """Recognise a folder, write the config and say what to do next."""
    from pathlib import Path

    from openlab.data.import_folder import write_config
    from openlab.data.layout import recognise

    layout = recognise(args.folder, args.kind)
    out = Path(args.out or f'configs/{Path(args.folder).resolve().name}.py')
    write_config(layout, out)
    print(f'{args.folder}: {layout.kind}, {len(layout.classes)} classes, parts '
          f'{", ".join(layout.parts)}')
    for note in layout.notes:
        print(f'note: {note}')
    print(f'wrote {out}\ncheck it with: openlab data check {out}\ntrain with: openlab train {out}')
    return 0


def run_make(args: argparse.Namespace) -> int:
    """Generate data unless they are there."""
    from openlab.data.generate.digit_scenes import make_digit_scenes

    if not make_digit_scenes(args.out, args.train, args.val, args.size, args.seed, print):
        print(f'{args.out} is complete already')
    return 0


def run(args: argparse.Namespace) -> int:
    """Run the subcommand; 1 where the data have problems."""
    without_config = {'make': run_make, 'convert': run_convert, 'import': run_import}
    if args.action in without_config:
        return without_config[args.action](args)
    from openlab.config import load_config

    cfg = load_config(args.config, args.overrides)
    action = {'check': run_check, 'show': run_show, 'bench': run_bench}[args.action]
    return action(cfg, args)


def run_check(cfg: Any, args: argparse.Namespace) -> int:
    """Check each split and print what was found."""
    from openlab.data.errors import DataError
    from openlab.data.inspect import SPLITS, Findings, check_dataset, numbers_of_classes

    splits = [args.split] if args.split else [s for s in SPLITS if cfg.get(f'{s}_dataloader')]
    classes = numbers_of_classes(cfg.get('model'))
    problems = 0
    for split in splits:
        try:
            loader = make_loader(cfg, split)
            found = check_dataset(loader.source, classes, args.decode, args.first,
                                  () if split == 'train' else learned_classes(cfg))
        except (DataError, FileNotFoundError) as error:
            found = Findings(problems=[str(error)])
        print(f'{split}_dataloader.dataset')
        for line in found.lines:
            print(f'  {line}')
        for problem in found.problems:
            print(f'  PROBLEM: {problem}')
        problems += len(found.problems)
    print(f'{problems} problems' if problems else 'no problems')
    return 1 if problems else 0


def learned_classes(cfg: Any) -> tuple[str, ...]:
    """Class names of the training, or none where its data cannot be read or need not be met."""
    from openlab.data.errors import DataError
    from openlab.registry import MODELS, UnknownComponentError

    model = (cfg.get('model') or {}).get('type')
    try:
        model = MODELS.get(model) if isinstance(model, str) else model
        if not cfg.get('train_dataloader') or getattr(model, 'gives_features', False):
            return ()
        return tuple(make_loader(cfg, 'train').metainfo.get('classes') or ())
    except (DataError, FileNotFoundError, UnknownComponentError):
        return ()  # the check of the training itself says why


def run_show(cfg: Any, args: argparse.Namespace) -> int:
    """Draw items and write the picture."""
    from pathlib import Path

    import cv2

    from openlab.data.inspect import draw_items

    split = args.split or 'train'
    picture = draw_items(make_loader(cfg, split), args.num, args.seed)
    out = Path(args.out or f'data_{split}.png')
    out.parent.mkdir(parents=True, exist_ok=True)
    ok, data = cv2.imencode('.png', cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    assert ok
    out.write_bytes(data.tobytes())
    print(f'{args.num} items of {split}_dataloader: {out}')
    return 0


def run_bench(cfg: Any, args: argparse.Namespace) -> int:
    """Time each stage in one thread, then the loader with its workers."""
    from openlab.data.inspect import time_loader, time_stages

    loader = make_loader(cfg, args.split or 'train')
    print(time_stages(loader, args.num).table())
    rate = time_loader(loader, max(2, args.num // loader.batch_size))
    workers = max(1, loader.num_workers)
    print(f'{"loader, " + str(loader.num_workers) + " workers":32} {"":9} {rate:8.0f} images/s, '
          f'{rate / workers:.0f} per worker')
    return 0


def make_loader(cfg: Any, split: str) -> DataLoader:
    """Build the loader of a split as training does, in one process."""
    from openlab.config import ConfigError
    from openlab.data.dataloader import build_dataloader

    key = f'{split}_dataloader'
    if not cfg.get(key):
        present = [k for k in cfg if str(k).endswith('_dataloader')]
        raise ConfigError(f'the config has no {key}; it has {", ".join(present) or "none at all"}')
    seed = (cfg.get('randomness') or {}).get('seed') or 0
    return build_dataloader(cfg[key], seed=seed, path=key,
                            config_file=getattr(cfg, 'filename', None))
