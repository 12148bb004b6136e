"""``openlab log``: plot, compare and export what runs have logged."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

HELP = 'plot, compare and export the logs of runs'
RUNS = 'run folder, or its log.jsonl'
NOT_SET = '(not set)'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    commands = parser.add_subparsers(dest='what', required=True, metavar='{plot,compare,csv}')

    plot = commands.add_parser('plot', help='draw the curves of one run or several as a PNG')
    plot.add_argument('runs', nargs='+', help=RUNS)
    plot.add_argument('--keys', nargs='+', default=(), metavar='KEY',
                      help='scalars to draw, such as train/loss (default: all of train and val)')
    plot.add_argument('--out', default=None, metavar='PNG',
                      help='file to write (default: curves.png in the run folder, or here)')
    plot.add_argument('--smooth', type=float, default=0.6, metavar='0..1',
                      help='weight of the past in the smoothed line, 0 for none')
    plot.add_argument('--x', choices=('iter', 'epoch'), default='iter')

    compare = commands.add_parser(
        'compare', help='table of last and best metrics, and where the configs differ')
    compare.add_argument('runs', nargs='+', help=RUNS)
    compare.add_argument('--keys', nargs='+', default=(), metavar='KEY')
    compare.add_argument('--json', action='store_true', help='print JSON')

    csv = commands.add_parser('csv', help='one row for each iteration, one column for each scalar')
    csv.add_argument('runs', nargs='+', help=RUNS)
    csv.add_argument('--keys', nargs='+', default=(), metavar='KEY')
    csv.add_argument('--out', default='-', metavar='CSV', help='file to write (default: print)')


def run(args: argparse.Namespace) -> int:
    """Run one of them."""
    return {'plot': _plot, 'compare': _compare, 'csv': _csv}[args.what](args)


def _plot(args: argparse.Namespace) -> int:
    from openlab.visualization.curves import find_log, load_runs, plot_curves

    if not 0 <= args.smooth < 1:
        raise ValueError(f'--smooth must be at least 0 and below 1, not {args.smooth}')
    runs = load_runs(args.runs)
    alone = find_log(args.runs[0]).with_name('curves.png') if len(args.runs) == 1 else None
    out = Path(args.out or alone or 'curves.png')
    print(plot_curves(runs, out, keys=args.keys, smooth=args.smooth, x=args.x))
    return 0


def _compare(args: argparse.Namespace) -> int:
    import json

    from openlab.visualization.curves import find_log, load_runs

    runs = load_runs(args.runs)
    results = {name: results_of(rows, args.keys) for name, rows in runs.items()}
    configs = {name: read_config(find_log(path).parent) for name, path in zip(runs, args.runs)}
    differences = config_differences(configs)
    if args.json:
        print(json.dumps({'results': results, 'config': differences}, indent=2, default=str))
        return 0
    print('\n'.join(comparison_table(results)))
    without = [name for name, config in configs.items() if config is None]
    if len(runs) > 1:
        print('\nconfig differences' + ('' if differences else ': none'))
        for key, values in differences.items():
            print(f'  {key}')
            for name, value in values.items():
                print(f'    {name}: {shorten(str(value))}')
    if without:
        print(f'\nno config in: {", ".join(without)}')
    return 0


def _csv(args: argparse.Namespace) -> int:
    import csv
    import sys

    from openlab.visualization.curves import load_runs

    runs = load_runs(args.runs)
    header, table = csv_table(runs, args.keys)
    if args.out == '-':
        csv.writer(sys.stdout, lineterminator='\n').writerows([header, *table])
        return 0
    with Path(args.out).open('w', newline='', encoding='utf-8') as stream:
        csv.writer(stream, lineterminator='\n').writerows([header, *table])
    print(f'{args.out}: {len(table)} rows, {len(header)} columns')
    return 0


def results_of(rows: Sequence[Mapping[str, Any]],
               keys: Sequence[str] = ()) -> dict[str, dict[str, float]]:
    """Last and best value of each scalar that a comparison is about.

    Args:
        rows: of one run.
        keys: which scalars; by default metrics of validations and the total training loss.

    Returns:
        ``last``, ``best`` and ``at`` (the iteration of the best) by scalar.
    """
    from openlab.visualization.curves import best_of, keys_of, series

    chosen = list(keys) or [
        k for k in keys_of(rows) if k.startswith('val/') or k == 'train/loss']
    results = {}
    for key in chosen:
        best = best_of(rows, key)
        if best is not None:
            results[key] = {'last': series(rows, key)[1][-1], 'best': best[1], 'at': best[0]}
    return results


def comparison_table(results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[str]:
    """Lines of a table with a row for each scalar and run; the best run of each is starred."""
    from openlab.visualization.curves import smaller_is_better

    rows = [('scalar', 'run', 'last', 'best', 'at iter')]
    keys = list(dict.fromkeys(key for values in results.values() for key in values))
    for key in keys:
        having = {name: values[key] for name, values in results.items() if key in values}
        pick = min if smaller_is_better(key) else max
        top = pick(v['best'] for v in having.values())
        for number, (name, values) in enumerate(having.items()):
            star = ' *' if len(results) > 1 and values['best'] == top else ''
            rows.append((key if number == 0 else '', name, f'{values["last"]:.5g}',
                         f'{values["best"]:.5g}{star}', str(values['at'])))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ['  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
             for row in rows]
    return [lines[0], '-' * max(map(len, lines)), *lines[1:]]


def csv_table(runs: Mapping[str, Sequence[Mapping[str, Any]]],
              keys: Sequence[str] = ()) -> tuple[list[str], list[list[str]]]:
    """Header and rows; training and validation of the same iteration share a row.

    Raises:
        ValueError: if a key is in none of the runs.
    """
    present = list(dict.fromkeys(
        k for rows in runs.values() for row in rows for k in row if k not in ('iter', 'epoch')))
    missing = [k for k in keys if k not in present]
    if missing:
        raise ValueError(f'no scalar {missing[0]!r} in the log; there are: {", ".join(present)}')
    chosen = list(keys) or present
    with_run = len(runs) > 1
    table = []
    for name, rows in runs.items():
        merged: dict[Any, dict[str, Any]] = {}
        for row in rows:
            merged.setdefault(row.get('iter'), {}).update(row)
        for row in merged.values():
            if keys and not any(k in row for k in keys):
                continue
            cells = [_cell(row.get(k)) for k in ('iter', 'epoch', *chosen)]
            table.append([name, *cells] if with_run else cells)
    return [*(['run'] if with_run else []), 'iter', 'epoch', *chosen], table


def read_config(folder: Path) -> dict[str, Any] | None:
    """The resolved config that a run folder keeps, as plain data; ``None`` without one."""
    import json

    if (folder / 'config.json').is_file():
        return json.loads((folder / 'config.json').read_text(encoding='utf-8'))
    for name in ('config.py', 'config.yaml'):
        if (folder / name).is_file():
            from openlab.config import load_config

            return load_config(folder / name).to_plain()
    return None


def config_differences(configs: Mapping[str, Mapping[str, Any] | None],
                       ) -> dict[str, dict[str, Any]]:
    """Values by run of every key that is not the same everywhere; runs without a config excepted.

    A whole part that some run lacks is one difference. ``work_dir`` always differs and says
    nothing.
    """
    known = {name: config for name, config in configs.items() if config is not None}
    return dict(_differences(known, '')) if known else {}


def _differences(values: Mapping[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    first = next(iter(values.values()))
    if path == 'work_dir' or all(value == first for value in values.values()):
        return
    if all(isinstance(v, Mapping) for v in values.values()):
        for key in dict.fromkeys(k for v in values.values() for k in v):
            yield from _differences({name: v.get(key, NOT_SET) for name, v in values.items()},
                                    f'{path}.{key}' if path else str(key))
    elif all(isinstance(v, (list, tuple)) and len(v) == len(first) for v in values.values()):
        for i in range(len(first)):
            yield from _differences({name: v[i] for name, v in values.items()}, f'{path}[{i}]')
    else:
        yield path, dict(values)


def shorten(text: str, width: int = 90) -> str:
    """Cut a long value; an ellipsis marks the cut."""
    return text if len(text) <= width else text[:width - 1] + '…'


def _cell(value: Any) -> str:
    return '' if value is None else repr(value) if isinstance(value, float) else str(value)
