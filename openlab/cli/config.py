"""``openlab config``: show, explain, compare, check and change configs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from typing import Any

HELP = 'show, explain, compare, check and change configs'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    what = parser.add_subparsers(dest='what', required=True, metavar='WHAT')

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return what.add_parser(name, help=text, description=text)

    show = add('show', 'print the resolved config as plain data that loads again')
    _config(show)
    show.add_argument('--format', choices=('py', 'yaml', 'json'), default='py')
    show.add_argument('--no-resolve', action='store_true',
                      help='without what building derives (does not import torch)')
    show.add_argument('--out', metavar='FILE', help='write there instead of to the terminal')
    why = add('explain', 'every writer of a key with file:line, in order, the winner marked')
    _config(why)
    why.add_argument('key', metavar='KEY', help='such as model.head.num_classes')
    diff = add('diff', 'what differs between two configs, key by key')
    diff.add_argument('a', metavar='A')
    diff.add_argument('b', metavar='B')
    _overrides(diff)
    check = add('check', 'find every mistake; build the model without data or memory')
    _config(check)
    check.add_argument('--shape', type=int, nargs='+', metavar='N',
                       help='of one input: C H W, H W or tokens; else the test pipeline tells')
    check.add_argument('--depth', type=int, default=1, metavar='N',
                       help='how many modules inside each other to show')
    swap = add('swap', 'write a config that inherits CONFIG and has other parts')
    swap.add_argument('config', metavar='CONFIG', help='a file, or the name of a shipped config')
    swap.add_argument('edits', nargs='+', metavar='KEY=PART',
                      help='such as model.backbone=ConvNeXt-T: a class, a published size, or '
                           'weights of the zoo')
    swap.add_argument('-o', '--out', metavar='FILE',
                      help='the file to write (default: CONFIG_PART.py here); - prints it')
    schema = add('schema', 'JSON Schema of configs, for editors')
    schema.add_argument('--out', metavar='FILE', help='write there instead of to the terminal')


def _config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('config', metavar='CONFIG', help='a file, or the name of a shipped config')
    _overrides(parser)


def _overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--set', '--cfg-options', dest='overrides', nargs='+', action='extend',
                        default=[], metavar='KEY=VALUE',
                        help='edit the config: a.b=1, a.0.c=x, a+=[1], +new.key=1, ~key')


def run(args: argparse.Namespace) -> int:
    """Do what was asked; 1 where two configs differ, 2 (by raising) where a config is wrong."""
    return {'show': _show, 'explain': _explain, 'diff': _diff, 'check': _check, 'swap': _swap,
            'schema': _schema}[args.what](args)


def _load(args: argparse.Namespace, path: str | None = None) -> Any:
    from openlab.config import load_config

    return load_config(path or args.config, args.overrides)


def _show(args: argparse.Namespace) -> int:
    from openlab.config.plain import dump_text

    cfg = _load(args)
    if not args.no_resolve:
        from openlab.config import resolve_config

        cfg = resolve_config(cfg)
    _write(dump_text(cfg, args.format), args.out)
    return 0


def _explain(args: argparse.Namespace) -> int:
    print(_load(args).explain(args.key))
    return 0


def _diff(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.text import Text

    console = Console()
    changes = list(differences(_load(args, args.a), _load(args, args.b)))
    for key, old, new in changes:
        line = Text(key, style='bold')
        if old is not None:
            line.append(f'\n  - {old}', style='not bold red')
        if new is not None:
            line.append(f'\n  + {new}', style='not bold green')
        console.print(line, soft_wrap=True)
    if not changes:
        print('no difference')
    return 1 if changes else 0


def differences(a: Any, b: Any, path: str = '') -> Iterator[tuple[str, str | None, str | None]]:
    """Yield (key path, value in a, value in b) of what differs; None where one lacks the key."""
    from openlab.config.nodes import is_same
    from openlab.config.override import format_value

    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in dict.fromkeys([*a, *b]):
            here = f'{path}.{key}' if path else str(key)
            if key not in a:
                yield here, None, format_value(b[key])
            elif key not in b:
                yield here, format_value(a[key]), None
            else:
                yield from differences(a[key], b[key], here)
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b)):
            yield from differences(x, y, f'{path}[{i}]')
    elif not is_same(a, b):
        yield path, format_value(a), format_value(b)


def _check(args: argparse.Namespace) -> int:
    from openlab.config import check_config

    cfg = _load(args)
    check_config(cfg)
    from openlab.apis.model_stats import config_stats
    from openlab.cli.model import print_stats

    print_stats(config_stats(cfg, args.shape), args.depth)
    print(f'{cfg.filename}: no mistakes')
    return 0


def _swap(args: argparse.Namespace) -> int:
    from openlab.apis.model_stats import config_stats
    from openlab.config.child import swapped_name, swapped_text, write_swapped

    out = args.out or swapped_name(args.config, args.edits)
    # Parts that are right one by one may not go together: a run on no device tells.
    text, cfg = swapped_text(args.config, args.edits, out if out != '-' else 'config.py')
    config_stats(cfg)
    if out == '-':
        sys.stdout.write(text)
        return 0
    sys.stdout.write(write_swapped(args.config, args.edits, out))
    print(f'\nwritten to {out}; no mistakes')
    return 0


def _schema(args: argparse.Namespace) -> int:
    import json

    from openlab.config.schema import config_schema

    _write(json.dumps(config_schema(), indent=2) + '\n', args.out)
    return 0


def _write(text: str, file: str | None) -> None:
    if file is None:
        sys.stdout.write(text)
    else:
        from pathlib import Path

        Path(file).write_text(text, encoding='utf-8')
