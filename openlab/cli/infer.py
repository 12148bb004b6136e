"""``openlab infer``: run a model on images, folders, globs or videos and print what it sees."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openlab.apis.inference import Inferencer

HELP = 'run a model on images, folders, globs or videos'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument('model', metavar='MODEL',
                        help='name of the zoo, config, folder of a run, checkpoint folder or '
                             '.safetensors file')
    parser.add_argument('images', nargs='+', metavar='IMAGE',
                        help='image or video file, folder or quoted glob pattern')
    parser.add_argument('--weights', help="weights to load; by default the run's best")
    parser.add_argument('--out', metavar='DIR', help='save drawings and results.json there')
    parser.add_argument('--batch-size', type=int, default=16)
    parser.add_argument('--device', help='cpu, cuda:0 ...; by default what this machine has')
    parser.add_argument('--precision', choices=('fp32', 'bf16', 'fp16'), default='fp32')
    parser.add_argument('--topk', type=int, default=3,
                        help='classes, or images of the gallery, to show for each image')
    parser.add_argument('--classes', nargs='+', metavar='NAME',
                        help='names of the classes, instead of those in the checkpoint')
    parser.add_argument('--gallery', nargs='+', metavar='IMAGE',
                        help='name the most alike of these images (files, folders, globs) instead '
                             'of a class; any network will do')
    parser.add_argument('--skip-bad', action='store_true',
                        help='list files that cannot be read instead of stopping at them')
    parser.add_argument('--no-draw', action='store_true', help='with --out: only results.json')
    parser.add_argument('--json', metavar='FILE',
                        help='write the results as JSON there, - for standard output')
    parser.add_argument('--set', '--cfg-options', dest='overrides', nargs='+', action='extend',
                        default=[], metavar='KEY=VALUE', help='edit the config')


def run(args: argparse.Namespace) -> int:
    """Predict, print, save; 1 if inputs were skipped."""
    import json
    import sys

    _check_options(args)
    from openlab.apis.inference import Inferencer
    from openlab.apis.result_files import plain_result

    model = Inferencer(args.model, args.weights, device=args.device, classes=args.classes,
                       precision=args.precision, overrides=args.overrides,
                       gallery=args.gallery)
    if args.gallery is None:
        _check_answers(model, args.model)
    print(model.report.summary(), file=sys.stderr)
    results = [
        plain_result(sample, args.topk)
        for sample in model.stream(args.images, args.batch_size, args.out,
                                   on_error='skip' if args.skip_bad else 'raise',
                                   draw=not args.no_draw, topk=args.topk)
    ]
    if args.json:
        text = json.dumps(results, indent=1) + '\n'
        if args.json == '-':
            print(text, end='')
        else:
            Path(args.json).write_text(text, encoding='utf-8')
    if args.json != '-':
        print(table(results))
    for name, reason in model.skipped:
        print(f'skipped {name}: {reason}', file=sys.stderr)
    if model.results_file is not None:
        print(f'saved {model.results_file}', file=sys.stderr)
    return 1 if model.skipped else 0


def _check_options(args: argparse.Namespace) -> None:
    """Refuse what could only fail once the model has been loaded and has worked.

    Raises:
        ValueError: naming the option and what it takes.
    """
    for option, value in (('--topk', args.topk), ('--batch-size', args.batch_size)):
        if value < 1:
            raise ValueError(f'{option} must be at least 1, not {value}')
    if args.out is not None:
        for path in (Path(args.out), *Path(args.out).parents):
            if path.exists() and not path.is_dir():
                raise ValueError(f'--out {args.out}: {path} is a file; --out takes a folder, '
                                 'which is made if it is not there')
    if args.json is not None and args.json != '-':
        _check_json(Path(args.json), None if args.out is None else Path(args.out))


def _check_json(file: Path, out: Path | None) -> None:
    accepted = '--json takes a file in a folder that exists, or - for standard output'
    if file.is_dir():
        raise ValueError(f'--json {file}: it is a folder; {accepted}')
    made = () if out is None else (out, *out.parents)  # will be there by then
    if not file.parent.is_dir() and file.parent not in made:
        what = 'is no folder' if file.parent.exists() else 'does not exist'
        raise ValueError(f'--json {file}: {file.parent} {what}; {accepted}')


def _check_answers(model: Inferencer, name: str) -> None:
    """Refuse a network that has only features to print.

    Raises:
        ValueError: with what such a network is good for.
    """
    network = model.model
    if getattr(network, 'gives_features', False):
        raise ValueError(
            f'{name} is a {type(network).__name__}, which gives features and no answer, so that '
            f'it says nothing of an image by itself; openlab train CONFIG --load-from {name} '
            f'--replace-head trains a head on it, openlab probe CONFIG {name} measures what its '
            f'features know, openlab infer {name} IMAGE --gallery FOLDER finds like images')


def table(results: list[dict[str, Any]]) -> str:
    """One line for each image: name and what was found."""
    names = [_name(result) for result in results]
    width = min(max(map(len, names), default=0), 60)
    return '\n'.join(
        f'{name if len(name) <= width else "…" + name[1 - width:]:{width}}  {_found(result)}'
        for name, result in zip(names, results)
    )


def _name(result: dict[str, Any]) -> str:
    frame = f' frame {result["frame"]}' if 'frame' in result else ''
    return f'{result["image"]}{frame}'


def _found(result: dict[str, Any]) -> str:
    if 'matches' in result:
        return '  '.join(f'{m["image"]} {m["score"]:.3f}' for m in result['matches'])
    if 'top' in result:
        return '  '.join(f'{t["class"]} {t["score"]:.3f}' for t in result['top'])
    if 'objects' in result:
        counts: dict[str, int] = {}
        for found in result['objects']:
            counts[found.get('class', 'object')] = counts.get(found.get('class', 'object'), 0) + 1
        return ', '.join(f'{n} x {name}' for name, n in counts.items()) or 'nothing'
    if 'class' in result:
        return result['class']
    return str(result.get('text', 'done'))
