"""``openlab probe``."""

from __future__ import annotations

import argparse

HELP = 'Judge the features of a network: nearest neighbours and a linear classifier.'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add = parser.add_argument
    add('config', metavar='CONFIG', help='a config file, or the name of a shipped one')
    add('weights', metavar='WEIGHTS', nargs='?',
        help='a checkpoint, a file of weights or an address; without, load_from of the config, '
             'else initial values')
    add('--set', '--cfg-options', dest='overrides', nargs='+', action='extend', default=[],
        metavar='KEY=VALUE', help='change the config')
    add('--method', choices=('knn', 'linear', 'both'), default='both')
    add('--k', type=int, default=20, metavar='N', help='number of neighbours (20)')
    add('--temperature', type=float, default=0.07, metavar='T', help='of their votes (0.07)')
    add('--l2', type=float, nargs='+', metavar='X',
        help='penalties to choose from on held-out training items (1e-6 to 10)')
    add('--layer', metavar='NAME', help='module whose output to take; by default the last features')
    add('--max-batches', type=int, metavar='N', help='use only so many batches of each part')
    add('--out', metavar='FILE', help='write the results as JSON')


def run(args: argparse.Namespace) -> int:
    """Extract features, judge them, print the table."""
    from openlab.apis.evaluation import write_record
    from openlab.apis.probe import PENALTIES, probe
    from openlab.apis.training import aligned
    from openlab.config import check_config, load_config

    cfg = load_config(args.config, args.overrides)
    check_config(cfg)
    methods = ('knn', 'linear') if args.method == 'both' else (args.method,)
    results = probe(cfg, args.weights, k=args.k, temperature=args.temperature,
                    l2=args.l2 or PENALTIES, layer=args.layer, max_batches=args.max_batches,
                    methods=methods)
    num_train, num_features = results['train']
    rows = [('probe', 'accuracy', '95 % from', 'to', 'setting')]
    scores = {}
    for name in methods:
        found = results[name]
        score = found.score if name == 'linear' else found
        setting = f'l2 {found.l2:g}' if name == 'linear' else (
            f'k {min(args.k, num_train)}, temperature {args.temperature:g}')
        rows.append((name, f'{score.value:.4f}', f'{score.low:.4f}', f'{score.high:.4f}', setting))
        scores[name] = vars(score) | ({'l2': found.l2} if name == 'linear' else {})
    print('\n'.join(aligned(rows)))
    print(f'\n{num_features} features of {num_train} images to learn from and '
          f'{results["test"][0]} to judge')
    start = cfg.get('load_from')
    start = start['source'] if isinstance(start, dict) else start
    print(f'weights: {args.weights or start or "initial values"}')
    if args.out:
        write_record(args.out, scores, config=str(args.config), overrides=args.overrides,
                     weights=args.weights, layer=args.layer, k=args.k,
                     temperature=args.temperature)
        print(f'results      {args.out}')
    return 0
