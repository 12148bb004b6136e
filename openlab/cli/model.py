"""``openlab model``: what the model of a config costs, counted or measured."""

from __future__ import annotations

import argparse

HELP = 'parameters, FLOPs, throughput and latency of a model'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    what = parser.add_subparsers(dest='what', required=True, metavar='WHAT')
    for name, text in (
        ('flops', 'FLOPs, parameters and activation memory by module, on the meta device'),
        ('params', 'parameters by module'),
        ('throughput', 'inputs per second, measured'),
        ('latency', 'time of a single input, measured'),
    ):
        sub = what.add_parser(name, help=text, description=text)
        sub.add_argument('config', metavar='CONFIG')
        sub.add_argument('--set', '--cfg-options', dest='overrides', nargs='+', action='extend',
                         default=[], metavar='KEY=VALUE', help='edit the config')
        sub.add_argument('--shape', type=int, nargs='+', metavar='N',
                         help='of one input: C H W, H W or tokens; else the test pipeline tells')
        if name in ('flops', 'params'):
            sub.add_argument('--depth', type=int, default=2, metavar='N',
                             help='how many modules inside each other to show')
        else:
            sub.add_argument('--device', help='cpu, cuda:0 ...; by default what this machine has')
            sub.add_argument('--seconds', type=float, default=3.0, metavar='S')
        if name == 'throughput':
            sub.add_argument('--batch-size', type=int, default=32, metavar='N')


def run(args: argparse.Namespace) -> int:
    """Count or measure, and print."""
    _check_numbers(args)
    from openlab.apis import model_stats
    from openlab.config import load_config

    cfg = load_config(args.config, args.overrides)
    if args.what in ('flops', 'params'):
        print_stats(model_stats.config_stats(cfg, args.shape), args.depth)
        return 0
    from openlab.config.build import build
    from openlab.registry import MODELS, import_custom

    import_custom(cfg.get('custom_imports'))
    shape = args.shape or model_stats.input_shape_of(cfg)
    batch_size = args.batch_size if args.what == 'throughput' else 1
    timing = model_stats.measure(
        build(cfg.model, MODELS, 'model'), shape, batch_size, args.device, args.seconds)
    size = 'x'.join(map(str, shape))
    if args.what == 'throughput':
        print(f'{timing.throughput:.1f} inputs/s of {size} in batches of {batch_size} on '
              f'{timing.device} ({timing.passes} passes)')
    else:
        print(f'{timing.median * 1e3:.2f} ms median, {timing.p95 * 1e3:.2f} ms p95 for {size} on '
              f'{timing.device} ({timing.passes} passes)')
    return 0


def _check_numbers(args: argparse.Namespace) -> None:
    """Refuse numbers that would count or measure nothing, before anything is built."""
    for option, least in (('depth', 0), ('batch_size', 1)):
        value = getattr(args, option, least)
        if value < least:
            raise ValueError(f'--{option.replace("_", "-")} must be at least {least}, not {value}')
    if args.shape and min(args.shape) < 1:
        raise ValueError(f'--shape takes sizes of at least 1, not {args.shape}')
    seconds = getattr(args, 'seconds', 1.0)
    if not 0 < seconds < float('inf'):
        raise ValueError(f'--seconds must be above 0, not {seconds:g}')


def print_stats(stats: object, depth: int) -> None:
    """Print the table and the totals of a model."""
    import sys

    from rich.console import Console

    from openlab.apis.model_stats import ModelStats, in_units, table

    assert isinstance(stats, ModelStats)
    # Into a file or pipe, rich would squeeze the table into 80 columns.
    Console(width=None if sys.stdout.isatty() else 160).print(table(stats, depth))
    total = stats.total
    print(f'parameters   {total.params:,} ({stats.trainable:,} trainable)')
    print(f'FLOPs        {in_units(total.flops)} (a multiply-add counts as two)')
    print(f'activations  {in_units(total.activations, "B")} for backward, one input, fp32')
