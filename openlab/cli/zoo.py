"""``openlab zoo``: find published weights, see their terms, download and check them."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openlab.zoo.index import Row, Wanted

HELP = 'find, download and check published weights'
EXAMPLES = """\
  openlab zoo search faster rcnn r50
  openlab zoo ls --task detection --dataset COCO --metric 'box AP>=45' --params '<60M'
  openlab zoo ls --license commercial
  openlab zoo measure --family mobilenet
  openlab zoo ls --latency '<20' --metric top1 --sort value
  openlab zoo download timm/resnet50.a1_in1k
  openlab zoo select --data photos/ --task classification --max-latency-ms 50"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One parser for each thing to do."""
    parser.epilog = EXAMPLES
    todo = parser.add_subparsers(dest='todo', required=True, metavar='ACTION')

    timing = todo.add_parser('measure', help='time networks on this machine, for --latency')
    timing.add_argument('names', nargs='*', metavar='NAME',
                        help='by default all that run and pass the filters, small ones first')
    _add_filters(timing, for_lists=False)
    timing.add_argument('--device', help='by default the one this machine has')
    timing.add_argument('--budget', type=_positive, default=10.0, metavar='MINUTES',
                        help='10 by default')
    timing.add_argument('--again', action='store_true', help='also what was measured before')
    listing = todo.add_parser('ls', help='list entries that pass all filters')
    _add_filters(listing)
    search = todo.add_parser('search', help='list entries in which all words are found')
    search.add_argument('words', nargs='+')
    _add_filters(search)
    show = todo.add_parser('show', help='everything that is known of an entry')
    show.add_argument('name')
    show.add_argument('--json', action='store_true')
    download = todo.add_parser('download', help='bring weights into the cache, and name the files')
    download.add_argument('names', nargs='+', metavar='NAME')
    download.add_argument('--to', metavar='DIR', help='copy the files there')
    verify = todo.add_parser('verify', help='compare files of the cache with their hashes')
    verify.add_argument('names', nargs='*', metavar='NAME', help='by default the whole cache')
    verify.add_argument('--delete', action='store_true',
                        help='remove bad files of the cache, so that their next use downloads them')
    licenses = todo.add_parser('licenses', help='terms of licences and of training data')
    licenses.add_argument('words', nargs='*', help='only those in which all words are found')
    status = todo.add_parser('status', help='how many entries run, by source and by task')
    status.add_argument('--json', action='store_true')
    card = todo.add_parser('export-card', help='write the model card of an entry')
    card.add_argument('name')
    card.add_argument('--out', metavar='FILE', help='by default standard output')
    picking = todo.add_parser('select', help='measure candidates on images of your own, and rank '
                                             'them')
    picking.add_argument('--data', required=True, metavar='FOLDER',
                         help='FOLDER/CLASS/image; of FOLDER/train and FOLDER/val, val is taken')
    picking.add_argument('--task', default='classification', choices=('classification',))
    picking.add_argument('--candidates', nargs='+', default=[], metavar='NAME',
                         help='entries to measure; by default all that run and pass the filters')
    picking.add_argument('--license', help='commercial: weights and data that permit it; or a name')
    picking.add_argument('--with-unclear', action='store_true',
                         help='with --license commercial: also what no terms forbid or permit')
    picking.add_argument('--max-latency-ms', type=_positive, metavar='N',
                         help='of one image on this machine')
    picking.add_argument('--max-params', metavar='N', help='such as 30M')
    picking.add_argument('--budget', type=_positive, default=10.0, metavar='MINUTES',
                         help='for the whole selection; 10 by default')
    picking.add_argument('--max-images', type=lambda text: _whole(text, 1), default=2000,
                         metavar='N', help='images to use at most, drawn evenly, but two of each '
                                           'class at least; 2000 by default')
    picking.add_argument('--method', choices=('zero-shot', 'linear', 'knn'),
                         help='by default zero-shot where a model reads texts or has classes of '
                              'the same names, else linear; knn where a class has under five '
                              'images. zero-shot also takes kinds: tiger cat for cat')
    picking.add_argument('--family', help='part of the name of the algorithm or architecture')
    picking.add_argument('--source', help='project that published it, such as timm')
    picking.add_argument('--device', help='by default the one this machine has')
    picking.add_argument('--seed', type=lambda text: _whole(text, 0, 2**32 - 1), default=0,
                         metavar='N', help='of drawing and cross-validation')
    picking.add_argument('--out', default='work_dirs/zoo_select', metavar='DIR',
                         help='for the table, the page and what was measured')
    publish = todo.add_parser('publish', help='make a run ready to be given away')
    publish.add_argument('work_dir', metavar='WORK_DIR', help='folder of the run, or a checkpoint')
    publish.add_argument('--out', metavar='DIR',
                         help='by default published in the folder of the run')
    publish.add_argument('--name', help='name of the model; by default the experiment_name of '
                                        "the config, else the config's own name")
    publish.add_argument('--license', default='apache-2.0', help='of the weights')
    publish.add_argument('--data', nargs='+', default=[], metavar='DATASET',
                         help='what it learned from; by default the class of the training data')
    publish.add_argument('--base', metavar='NAME',
                         help='entry of the zoo that it started from, for the chain of licences; '
                              'by default what load_from and the like name')
    publish.add_argument('--push', metavar='ORG/REPO', help='upload to this Hugging Face hub')
    publish.add_argument('--public', action='store_true', help='make a new repository public')


def _add_filters(parser: argparse.ArgumentParser, for_lists: bool = True) -> None:
    parser.add_argument('--task', help='part of the name, such as detection')
    parser.add_argument('--source', help='project that published it, such as timm')
    parser.add_argument('--family', help='part of the name of the algorithm or architecture')
    parser.add_argument('--dataset', help='part of the name of data with results')
    parser.add_argument('--metric', help="a metric, perhaps with a bound: 'top1>=80'")
    parser.add_argument('--params', metavar='RANGE', help="'<10M', '>=1M' or '5M-30M'")
    parser.add_argument('--license', help='commercial: weights and data that permit it; or part of '
                                          'the name of a licence')
    parser.add_argument('--with-unclear', action='store_true',
                        help='with --license commercial: also what no terms forbid or permit')
    if not for_lists:
        return
    parser.add_argument('--latency', metavar='RANGE',
                        help="milliseconds of one image on this machine, as openlab zoo measure "
                             "or select found: '<30' or '5-30'")
    parser.add_argument('--status', choices=('runs', 'listed'), help='runs: proven to fit openlab')
    parser.add_argument('--sort', choices=('name', 'params', 'value', 'latency'), default='name',
                        help='value: the best first, of the one metric of --metric')
    parser.add_argument('--limit', type=lambda text: _whole(text, 0), default=50, metavar='N',
                        help='rows to show; 0 for all')
    parser.add_argument('--json', action='store_true')


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    return {'ls': _list, 'search': _list, 'show': _show, 'download': _download, 'verify': _verify,
            'measure': _measure, 'licenses': _licenses, 'status': _status, 'export-card': _card,
            'publish': _publish, 'select': _select}[args.todo](args)


def _list(args: argparse.Namespace) -> int:
    from openlab.zoo.index import best_result, select, status
    from openlab.zoo.latencies import measured

    wanted = _wanted(args)
    found = select(wanted)
    rows = _sorted(found.rows, args.sort, wanted)
    shown = rows[:args.limit] if args.limit else rows
    times = measured()
    if args.json:
        print(json.dumps([{
            **vars(row), 'status': status(row), 'results': [r._asdict() for r in row.results],
            'latency_ms': times[row.name].milliseconds if row.name in times else None,
        } for row in shown]))
        return 0 if rows else 1
    cells = [['name', 'task', 'params', 'result', 'licence', 'status']]
    for row in shown:
        result = best_result(row, wanted)
        cells.append([
            row.name, row.tasks[0] if row.tasks else '', in_short(row.params),
            f'{result.metric} {result.value:g} {result.dataset}' if result else '',
            row.license or '', status(row)])
    if any(row.name in times for row in shown):
        device = next(iter(times.values())).device
        column = [f'{times[row.name].milliseconds:.1f} ms' if row.name in times else ''
                  for row in shown]
        for cell, text in zip(cells, [f'on {device}', *column], strict=True):
            cell.insert(3, text)
    print(_table([tuple(row) for row in cells]))
    rest = f', {len(shown)} shown (--limit 0 shows all)' if len(shown) < len(rows) else ''
    print(f'{len(rows)} entries{rest}', file=sys.stderr)
    if found.unmeasured:
        print(f'{len(found.unmeasured)} more run, but nobody measured their latency here; openlab '
              'zoo measure does, with the same filters', file=sys.stderr)
    if found.excluded:
        _tell_excluded([verdict.reasons for _, verdict in found.excluded])
    return 0 if rows else 1


def _wanted(args: argparse.Namespace) -> Wanted:
    """The filters of the command line."""
    from openlab.zoo.index import Wanted, check_known

    wanted = Wanted(
        words=getattr(args, 'words', ()), task=args.task, source=args.source, family=args.family,
        dataset=args.dataset, metric=args.metric, params=args.params, license=args.license,
        with_unclear=args.with_unclear, latency=getattr(args, 'latency', None),
        status=getattr(args, 'status', 'runs'))
    _check_source(wanted)
    check_known(wanted)
    return wanted


def _measure(args: argparse.Namespace) -> int:
    import time

    from openlab.apis.latency import latency_of
    from openlab.device import check_device
    from openlab.zoo.index import find, select, status
    from openlab.zoo.latencies import measured

    if args.device is not None:
        check_device(args.device, '--device ')
    named = [find(name) for name in args.names] or None
    for row in named or ():
        if status(row) != 'runs':
            raise ValueError(f'{row.name} is listed, but not proven to fit a config of openlab')
    found = select(_wanted(args), named)
    among = found.rows
    if not among:
        print('nothing that runs passes the filters' if named is None else
              f'the filters leave nothing of {", ".join(row.name for row in named)}',
              file=sys.stderr)
        if found.excluded:
            _tell_excluded([verdict.reasons for _, verdict in found.excluded])
        return 1
    known = {} if args.again else measured(args.device)
    wanted = sorted((row for row in among if row.name not in known),
                    key=lambda row: (row.params is None, row.params or 0, row.name))
    if len(among) > len(wanted):
        print(f'{len(among) - len(wanted)} were measured before (--again does it anew)',
              file=sys.stderr)
    end, failed = time.monotonic() + 60 * args.budget, 0
    for number, row in enumerate(wanted, 1):
        if time.monotonic() > end:
            print(f'{len(wanted) - number + 1} more did not fit into {args.budget:g} minutes; the '
                  'same command goes on with them', file=sys.stderr)
            break
        try:
            latency = latency_of(row.name, args.device)
        except (ImportError, ValueError, RuntimeError) as error:
            failed += 1
            print(f'{row.name}: {str(error).splitlines()[0]}', file=sys.stderr)
            continue
        shape = 'x'.join(map(str, latency.input_shape))
        print(f'{latency.milliseconds:10.2f} ms  {row.name}  {in_short(row.params)}  {shape}  '
              f'{latency.device}', flush=True)
    return 1 if failed else 0


def _tell_excluded(reasons: list[tuple[str, ...]]) -> None:
    """Why terms excluded entries, the commonest reasons first."""
    counts = Counter(reason for one in reasons for reason in one)
    print(f'{len(reasons)} more are excluded by their terms:', file=sys.stderr)
    for reason, count in counts.most_common(8):
        print(f'  {count:5}  {reason}', file=sys.stderr)
    if len(counts) > 8:
        print(f'  and {len(counts) - 8} more reasons; openlab zoo show NAME tells those of one',
              file=sys.stderr)


def _check_source(wanted: Wanted) -> None:
    from openlab.cli import did_you_mean
    from openlab.zoo.index import rows

    known = list(dict.fromkeys(row.source for row in rows()))
    if wanted.source and wanted.source not in known:
        raise ValueError(f'no source {wanted.source!r}{did_you_mean(wanted.source, known)}; '
                         f'there are {", ".join(known)}')


def _sorted(rows: list[Row], key: str, wanted: Wanted) -> list[Row]:
    if key == 'latency':
        from openlab.zoo.latencies import measured

        times = measured()
        return sorted(rows, key=lambda row: (
            times[row.name].milliseconds if row.name in times else float('inf'), row.name))
    if key == 'params':
        return sorted(rows, key=lambda row: (row.params is None, row.params or 0))
    if key == 'value':
        return _sorted_by_value(rows, wanted)
    return sorted(rows, key=lambda row: row.name.lower())


def _sorted_by_value(rows: list[Row], wanted: Wanted) -> list[Row]:
    """Best first in the metric that is shown; rows without a result at the end."""
    from openlab.zoo.filters import plain_metric
    from openlab.zoo.index import best_result
    from openlab.zoo.metric_direction import lower_is_better

    found = [(result.value, row) for row in rows if (result := best_result(row, wanted))]
    counts = Counter(result.metric for row in rows if (result := best_result(row, wanted)))
    metrics = [name for name, _ in counts.most_common()]
    if len({plain_metric(name) for name in metrics}) > 1:
        some = ', '.join(metrics[:6]) + (' ...' if len(metrics) > 6 else '')
        raise ValueError(f'--sort value cannot compare different metrics ({some}); choose one, '
                         f'such as --metric {shlex.quote(metrics[0])}')
    sign = 1 if metrics and lower_is_better(metrics[0]) else -1
    found.sort(key=lambda pair: sign * pair[0])
    return [row for _, row in found] + [row for row in rows if not best_result(row, wanted)]


def _show(args: argparse.Namespace) -> int:
    from openlab.zoo.card import details
    from openlab.zoo.index import entry

    model = entry(args.name)
    print(json.dumps(model, indent=1, ensure_ascii=False) if args.json else details(model))
    return 0


def _download(args: argparse.Namespace) -> int:
    import shutil
    from pathlib import Path

    from openlab.zoo.index import fetch_weights

    for name in args.names:
        for path in fetch_weights(name, with_check=True):
            if args.to:
                Path(args.to).mkdir(parents=True, exist_ok=True)
                path = Path(shutil.copy(path, args.to))
            print(path)
    return 0


def _verify(args: argparse.Namespace) -> int:
    from openlab.zoo.download import discard, is_cached
    from openlab.zoo.verify import verify_cache, verify_entry

    found = [c for name in args.names for c in verify_entry(name)] if args.names else (
        list(verify_cache()))
    for check in found:
        print(f'{"ok" if check.problem is None else "BAD":4} {check.path}'
              + (f': {check.problem}' if check.problem else f' ({check.against})'))
    bad = [check.path for check in found if check.problem is not None]
    print(f'{len(found)} files, {len(bad)} bad', file=sys.stderr)
    in_cache = [path for path in bad if is_cached(path)]
    for path in bad:
        if path not in in_cache:
            print(f'{path} is no file of the cache: install its package again', file=sys.stderr)
    if in_cache and not args.delete:
        command = shlex.join(['openlab', 'zoo', 'verify', *args.names, '--delete'])
        print(f'{command} removes the bad ones; their next use downloads them again',
              file=sys.stderr)
        return 1
    for path in in_cache:
        discard(path)
        print(f'removed {path}; its next use downloads it again', file=sys.stderr)
    return 1 if len(bad) > len(in_cache) else 0


def _licenses(args: argparse.Namespace) -> int:
    from openlab.zoo.index import rows
    from openlab.zoo.terms import all_terms, table, terms_of_data, terms_of_license

    counts = Counter(terms_of_license(row.license).name for row in rows())
    counts.update(terms_of_data(name).name for row in rows() for name in row.training_data)
    words = {True: 'yes', False: 'no', None: 'unclear'}
    for title, kind in (('licences of weights', 'licenses'), ('training data', 'datasets')):
        cells = [(title, 'commercial', 'entries', 'why', 'terms')]
        for terms in sorted(all_terms(kind), key=lambda t: -counts[t.name]):
            text = f'{terms.name} {terms.why}'.lower()
            if all(word.lower() in text for word in args.words):
                cells.append((terms.name, words[terms.commercial], str(counts[terms.name]),
                              terms.why, terms.url))
        print(_table(cells, limit=90) + '\n')
    print(table()['about'], file=sys.stderr)
    return 0


def _status(args: argparse.Namespace) -> int:
    from openlab.zoo.index import checks, rows, shares, status

    running = [row.name for row in rows() if status(row) == 'runs']
    run_count, proofs = len(running), checks()
    output_count = sum('outputs' in proofs.get(name, {}).get('proof', '') for name in running)
    if args.json:
        print(json.dumps({'runs': run_count, 'same_outputs': output_count, 'entries': len(rows()),
                          'by_source': shares('source'), 'by_task': shares('task')}))
        return 0
    for key, title in (('source', 'source'), ('task', 'task')):
        cells: list[tuple[str, ...]] = [(title, 'runs', 'entries', 'share')]
        for name, (count, total) in shares(key).items():  # type: ignore[arg-type]
            cells.append((name, str(count), str(total), f'{100 * count / total:.1f} %'))
        print(_table(cells) + '\n')
    print(f'{run_count} of {len(rows())} entries run ({100 * run_count / len(rows()):.1f} %): '
          'names and shapes proven to fit a config of openlab, by tools/zoo/check_runs.py\n'
          f'{output_count} of these give the same outputs as the published network with the same '
          'weights')
    return 0


def _card(args: argparse.Namespace) -> int:
    from pathlib import Path

    from openlab.zoo.card import card_of_entry
    from openlab.zoo.index import entry

    text = card_of_entry(entry(args.name))
    if args.out:
        Path(args.out).write_text(text, encoding='utf-8')
    else:
        print(text, end='')
    return 0


def _publish(args: argparse.Namespace) -> int:
    from openlab.apis.zoo_publish import publish, push

    folder = publish(args.work_dir, args.out, name=args.name, license_name=args.license,
                     data=args.data, base=args.base)
    for file in sorted(folder.iterdir()):
        print(f'{file} ({file.stat().st_size:,} bytes)')
    if args.push:
        print(push(folder, args.push, is_public=args.public))
    return 0


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise argparse.ArgumentTypeError(f'got {text!r}; accepted: a number above 0, such as 2.5')
    return value


def _whole(text: str, low: int, high: int | None = None) -> int:
    """A whole number that is not below ``low`` nor above ``high``."""
    is_number = re.fullmatch(r'\s*[+-]?\d+\s*', text) is not None
    if not is_number or int(text) < low or (high is not None and int(text) > high):
        bounds = f'of {low} or more' if high is None else f'from {low} to {high}'
        raise argparse.ArgumentTypeError(f'got {text!r}; accepted: a whole number {bounds}')
    return int(text)


def _select(args: argparse.Namespace) -> int:
    from dataclasses import asdict
    from pathlib import Path

    from openlab.apis.model_selection import (
        METHODS,
        TASKS,
        Limits,
        Selection,
        candidates,
        ranked,
        read_images,
        write_csv,
    )
    from openlab.device import check_device
    from openlab.visualization.selection_page import write_page
    from openlab.zoo.filters import as_number
    from openlab.zoo.index import Wanted, check_known

    if args.device is not None:
        check_device(args.device, '--device ')  # before images are read
    wanted = Wanted(task=TASKS[args.task], source=args.source, family=args.family,
                    license=args.license, with_unclear=args.with_unclear)
    _check_source(wanted)
    _check_family(wanted, args.task)
    check_known(wanted)
    limits = Limits(args.max_latency_ms, args.max_params and as_number(args.max_params),
                    args.budget)
    among, excluded = candidates(wanted, limits, args.candidates)
    if not among:
        raise ValueError(_why_none(wanted, excluded, args.candidates))
    if args.candidates:
        for one in excluded:
            print(f'left out: {one.name}: {one.reason}', file=sys.stderr)
    images = read_images(args.data, args.max_images, args.seed)
    about = (f'{len(images.paths)} images of {len(images.classes)} classes'
             + (f', {len(images.unreadable)} unreadable' if images.unreadable else '')
             + (f', {images.left_out} more not used' if images.left_out else '')
             + (f' ({images.note})' if images.note else ''))
    print(about, file=sys.stderr)
    for problem in images.unreadable[:5]:
        print(f'  left out: {problem}', file=sys.stderr)
    method = {None: None, 'zero-shot': METHODS[0], 'linear': METHODS[1], 'knn': METHODS[2]}
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    selection = Selection(images, limits, out, method[args.method], args.device, args.seed)
    found = ranked([*_with_progress(selection.run(among), len(among)), *excluded])
    write_csv(out / 'ranking.csv', found)
    write_page(out / 'ranking.html', 'Models on these images',
               f'{about}, from {Path(args.data).name}; latency of one image on '
               f'{selection.device.type}.', [asdict(one) for one in found])
    return _tell_ranking(found, out)


def _why_none(wanted: Wanted, excluded: Sequence[Any], names: Sequence[str]) -> str:
    """Why nothing is left to measure: of each candidate that was named, else of the filters."""
    if names:
        return '\n'.join(['none of the candidates can be measured',
                          *(f'  {one.name}: {one.reason}' for one in excluded)])
    given = {'family': wanted.family, 'source': wanted.source, 'license': wanted.license}
    text = ', '.join(f'{key} {value!r}' for key, value in given.items() if value)
    counts = Counter(reason for one in excluded for reason in one.reason.split('; '))
    return '\n'.join([f'no entry that runs passes the filters{text and ": "}{text}',
                      *(f'  {count:5}  {reason}' for reason, count in counts.most_common(8))])


def _check_family(wanted: Wanted, task: str) -> None:
    """Refuse a family of which nothing for the task runs, whatever the other filters say."""
    from openlab.cli import did_you_mean
    from openlab.data.datasets.base import preview
    from openlab.zoo.index import Wanted, select

    running = Wanted(task=wanted.task, status='runs')
    if not wanted.family or select(replace(running, family=wanted.family)).rows:
        return
    if select(Wanted(family=wanted.family)).rows:
        raise ValueError(f'no entry of the family {wanted.family!r} that runs is for {task}')
    known = {row.family.lower(): row.family for row in select(running).rows}
    near = did_you_mean(wanted.family.lower(), sorted(known))
    raise ValueError(f'no family {wanted.family!r}{near}; for {task} there are '
                     f'{preview([known[name] for name in sorted(known)])}')


def _with_progress(results: Any, total: int) -> list[Any]:
    """All results, with a line for each as it comes."""
    found = []
    for number, one in enumerate(results, 1):
        found.append(one)
        if one.status != 'not measured':
            value = f'{100 * one.accuracy:5.1f} %' if one.status == 'measured' else one.status
            print(f'[{number}/{total}] {one.name}: {value} {one.reason}', file=sys.stderr)
    return found


def _tell_ranking(found: list[Any], out: Any) -> int:
    from openlab.data.datasets.base import preview

    measured = [one for one in found if one.status == 'measured']
    words = {True: 'yes', False: 'no', None: 'unclear'}
    cells: list[tuple[str, ...]] = [('', 'name', 'accuracy', '95 % interval', 'latency', 'params',
                                     'licence', 'business', 'by')]
    for rank, one in enumerate(measured, 1):
        cells.append((f'{rank}{"*" if one.on_front else ""}', one.name,
                      f'{100 * one.accuracy:.1f} %', f'{100 * one.low:.1f}-{100 * one.high:.1f}',
                      f'{one.latency_ms:.1f} ms', in_short(one.params), one.license or '',
                      words[one.commercial], one.method))
    if measured:
        print(_table(cells))
        print('* no other model is both faster and more accurate')
    for text in dict.fromkeys(one.matched for one in measured if one.matched):
        names = [one.name for one in measured if one.matched == text]
        pairs = text.split('; ')
        more = f'; {len(pairs) - 20} more in the table' if len(pairs) > 20 else ''
        print(f'zero-shot, your class = those of {preview(names, 3)}: '
              f'{"; ".join(pairs[:20])}{more}')
    reasons = Counter(f'{one.status}: {one.reason}' for one in found if one.status != 'measured')
    for reason, count in reasons.most_common(8):
        print(f'{count:5}  {reason}', file=sys.stderr)
    if len(reasons) > 8:
        print(f'  and {len(reasons) - 8} more reasons, in the table', file=sys.stderr)
    print(f'{out / "ranking.csv"}\n{out / "ranking.html"}')
    return 0 if measured else 1


def in_short(number: float | None) -> str:
    """A large number in three digits: ``25.6M``."""
    if number is None:
        return ''
    for factor, letter in ((1e12, 'T'), (1e9, 'G'), (1e6, 'M'), (1e3, 'k')):
        if number >= factor:
            return f'{number / factor:.3g}{letter}'
    return f'{number:g}'


def _table(cells: Sequence[tuple[str, ...]], limit: int = 76) -> str:
    """Columns, the first row as their heads; long words are kept whole in the first column."""
    def cut(text: str, column: int) -> str:
        return text if column == 0 or len(text) <= limit else f'{text[:limit - 1]}…'

    short: list[list[Any]] = [[cut(cell, i) for i, cell in enumerate(row)] for row in cells]
    widths = [min(max(len(row[i]) for row in short), limit) for i in range(len(short[0]))]
    return '\n'.join('  '.join(f'{cell:{width}}' for cell, width in zip(row, widths)).rstrip()
                     for row in short)
