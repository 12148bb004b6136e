"""``openlab train``."""

from __future__ import annotations

import argparse
import copy
import os

HELP = 'Train the model of a config, or resume it.'

# What each process of a launch is told again; by destination, with the option's name.
_FLAGS = ('overfit_batch', 'auto_scale_lr', 'replace_head')
_VALUES = ('work_dir', 'load_from', 'seed', 'precision', 'fast_dev_run', 'max_time', 'batch_size',
           'compile')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add = parser.add_argument
    add('config', metavar='CONFIG', help='a config file, or the name of a shipped one')
    add('--work-dir', metavar='DIR', help='folder of the run (default: work_dirs/CONFIG)')
    add('--set', '--cfg-options', dest='overrides', nargs='+', action='extend', default=[],
        metavar='KEY=VALUE', help='change the config, as in optim_wrapper.optimizer.lr=0.01')
    add('--resume', nargs='?', const=True, default=False, metavar='PATH',
        help='continue the newest checkpoint of the work dir, or the one at PATH')
    add('--load-from', metavar='WEIGHTS', help='start from these weights')
    add('--replace-head', action='store_true',
        help='with --load-from: keep a fresh head where the number of classes differs')
    add('--gpus', type=int, metavar='N',
        help='train with N processes, one for each accelerator (or on the CPU)')
    add('--seed', type=int, metavar='N')
    add('--precision', choices=('fp32', 'bf16', 'fp16'))
    add('--amp', action='store_const', const='auto', dest='precision',
        help='bf16 where the device supports it, else fp16')
    add('--batch-size', metavar='N|auto', help='of training, for each process; auto finds it')
    add('--auto-scale-lr', action='store_true',
        help='scale lr by batch size / auto_scale_lr.base_batch_size')
    add('--find-lr', action='store_true', help='try learning rates, print the best, do not train')
    add('--max-time', metavar='TIME', help='save and leave in time, as in 2h30m')
    add('--compile', nargs='?', const='model', choices=('model', 'blocks'),
        help='torch.compile the whole network, or block by block')
    add('--fast-dev-run', nargs='?', type=int, const=3, default=0, metavar='N',
        help='N (3) batches of each stage, to see that all of it works')
    add('--overfit-batch', action='store_true', help='train on one batch: can it be learned?')


def run(args: argparse.Namespace) -> int:
    """Train; returns 0, or 128 + signal where one stopped the run."""
    if args.gpus is not None and 'LOCAL_RANK' not in os.environ:
        from openlab.engine.launch import launch

        return launch(relaunch_arguments(args), args.gpus)
    from openlab.apis.summary import print_summary
    from openlab.apis.training import TrainOptions, exit_code, train
    from openlab.config import check_config, load_config
    from openlab.engine.distributed import end_rank

    precision = args.precision
    if precision == 'auto':
        from openlab.device import get_device, supports_bf16

        precision = 'bf16' if supports_bf16(get_device()) else 'fp16'
    auto_batch = args.batch_size == 'auto'
    options = TrainOptions(
        work_dir=args.work_dir, resume=args.resume, load_from=args.load_from,
        replace_head=args.replace_head, seed=args.seed, precision=precision,
        fast_dev_run=args.fast_dev_run, overfit_batch=args.overfit_batch,
        auto_scale_lr=args.auto_scale_lr, max_time=args.max_time, compile=args.compile,
        batch_size=None if auto_batch or args.batch_size is None else _count(args.batch_size))
    cfg = load_config(args.config, args.overrides)
    check_config(cfg)
    if auto_batch:
        from openlab.apis.finding import choose_batch_size

        print(choose_batch_size(copy.deepcopy(cfg), options))
    if args.find_lr:
        from openlab.apis.finding import sweep_lr

        print(sweep_lr(cfg, options))
        return 0
    runner = train(cfg, options)
    print_summary(runner)
    code = exit_code(runner)
    end_rank(code)
    return code


def relaunch_arguments(args: argparse.Namespace) -> list[str]:
    """The command line of each process: the same without ``--gpus``."""
    argv = ['train', args.config]
    for name in _FLAGS:
        if getattr(args, name):
            argv.append(f'--{name.replace("_", "-")}')
    for name in _VALUES:
        value = getattr(args, name)
        if value in (None, 0):
            continue
        is_amp = name == 'precision' and value == 'auto'
        argv += ['--amp'] if is_amp else [f'--{name.replace("_", "-")}', str(value)]
    if args.seed == 0:
        argv += ['--seed', '0']
    if args.resume:
        argv += ['--resume'] if args.resume is True else ['--resume', str(args.resume)]
    if args.overrides:
        argv += ['--set', *args.overrides]
    return argv


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"--batch-size takes a positive number or 'auto', got {text!r}")
    return int(text)
