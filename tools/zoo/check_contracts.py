"""Print, by family, how many published OpenMMLab classifiers load strictly into our models.

``python tools/zoo/check_contracts.py ../shared/contracts/mmpretrain.json.gz [--only vgg]``
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from openlab.apis.contracts import check_contracts, read_contracts, table


def main() -> int:
    """Check and print; the exit code is 1 if a network that we have does not fit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('contracts', nargs='?', default='../shared/contracts/mmpretrain.json.gz')
    parser.add_argument('--only', default='', help='published names that contain this')
    args = parser.parse_args()
    try:
        contracts = read_contracts(args.contracts)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    results = check_contracts(contracts, args.only)
    for result in results:
        if result.problem:
            print(f'does not fit: {result.name} as {result.config}: {result.problem}')
    print(table(results))
    return int(any(result.problem for result in results))


if __name__ == '__main__':
    sys.exit(main())
