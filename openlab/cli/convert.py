"""``openlab convert``: weights of any readable format as one safetensors file."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = 'write weights of any format as safetensors'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add = parser.add_argument
    add('source', metavar='OLD', type=Path,
        help='a checkpoint folder, a .pth, .pt or .safetensors file, or a sharded index')
    add('target', metavar='NEW', type=Path, help='a new .safetensors file')
    add('--unsafe-pickle', action='store_true',
        help='read OLD with Python\'s pickle, which runs any code in it: only for files you trust')
    add('--ema', action=argparse.BooleanOptionalAction, default=None,
        help='take averaged weights (default: where a checkpoint folder has them)')


def run(args: argparse.Namespace) -> int:
    """Convert and say what was written."""
    from openlab.engine.convert_weights import convert_weights

    count = convert_weights(
        args.source, args.target, unsafe_pickle=args.unsafe_pickle, ema=args.ema)
    print(f'{count} tensors written to {args.target}')
    return 0
