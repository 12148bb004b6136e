"""``openlab test``."""

from __future__ import annotations

import argparse

HELP = 'Evaluate weights, or predictions dumped earlier.'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add = parser.add_argument
    add('config', metavar='CONFIG', help='a config file, or the name of a shipped one')
    add('weights', metavar='WEIGHTS', nargs='?',
        help='a checkpoint folder (also .../best or .../last), or a file of weights')
    add('--set', '--cfg-options', dest='overrides', nargs='+', action='extend', default=[],
        metavar='KEY=VALUE', help='change the config')
    add('--tta', action='store_true', help='test-time augmentation, as the config says or flip')
    add('--dump', metavar='FILE', help='write predictions and truth: .pt, .pkl or .json')
    add('--from-dump', metavar='FILE', help='evaluate a dump; no weights, no images')
    add('--out', metavar='FILE', help='write the results as JSON')


def run(args: argparse.Namespace) -> int:
    """Evaluate and print the table."""
    if args.from_dump and (args.weights or args.dump or args.tta):
        raise ValueError('--from-dump evaluates a file: it goes with neither WEIGHTS nor --dump '
                         'nor --tta')
    from openlab.apis.evaluation import evaluate, evaluate_dump, write_record
    from openlab.apis.training import aligned
    from openlab.config import check_config, load_config
    from openlab.engine.distributed import is_main_process
    from openlab.engine.hooks.progress import format_value

    cfg = load_config(args.config, args.overrides)
    check_config(cfg)
    if args.from_dump:
        metrics = evaluate_dump(cfg, args.from_dump)
    else:
        metrics = evaluate(cfg, args.weights, tta=args.tta, dump=args.dump)
    if is_main_process():
        rows = [('metric', 'value'), *((n, format_value(v)) for n, v in metrics.items())]
        print('\n'.join(aligned(rows)))
        if args.dump:
            print(f'\npredictions  {args.dump}')
        if args.out:
            write_record(args.out, metrics, config=str(args.config), overrides=args.overrides,
                         weights=args.weights, from_dump=args.from_dump, tta=args.tta)
            print(f'results      {args.out}')
    return 0
