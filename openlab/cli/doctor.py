"""``openlab doctor``: what is installed, what it runs on, and what is missing."""

from __future__ import annotations

import argparse
from typing import Any

HELP = 'versions, devices and what is active on this machine'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument('--json', action='store_true', help='print JSON')


def run(args: argparse.Namespace) -> int:
    """Print the report; 1 if something that openlab needs does not work."""
    from openlab.apis.doctor import examine, report_lines

    report: dict[str, Any] = examine()
    if args.json:
        import json

        print(json.dumps(report, indent=2))
    else:
        print('\n'.join(report_lines(report)))
    return 1 if report['problems'] else 0
