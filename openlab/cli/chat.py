"""``openlab chat``: talk to a language model in the terminal."""

from __future__ import annotations

import argparse

from openlab.cli.generate import SOURCES, add_sampling_arguments, sampling_of

HELP = 'talk to a language model in the terminal'
COMMANDS = '/reset forgets the conversation, /quit (or Ctrl-D) leaves'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument('model', help=SOURCES)
    parser.add_argument('--system', help='first message, which tells the model who it is')
    add_sampling_arguments(parser, temperature=0.7)


def run(args: argparse.Namespace) -> int:
    """Read a line, print the answer, until the end of the input."""
    from rich.console import Console

    from openlab.apis.language import chat_turn, load_language_model
    from openlab.device import get_device

    sampling = sampling_of(args)
    console = Console(highlight=False)
    model, tokenizer = load_language_model(
        args.model, args.tokenizer, args.device or str(get_device()))
    tokenizer.chat_prompt([{'role': 'user', 'content': ''}])  # no template: say so at once
    console.print(f'[dim]{COMMANDS}[/dim]')
    beginning = [{'role': 'system', 'content': args.system}] if args.system else []
    messages = list(beginning)
    while True:
        try:
            text = console.input('[bold]> [/bold]').strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return 0
        if text == '/quit':
            return 0
        if text == '/reset':
            messages = list(beginning)
        if not text or text == '/reset':
            continue
        messages.append({'role': 'user', 'content': text})
        answer = ''
        try:
            for piece in chat_turn(model, tokenizer, messages, sampling):
                answer += piece
                console.print(piece, end='', markup=False, soft_wrap=True)
        except KeyboardInterrupt:  # ends the answer, not the conversation
            console.print(' [dim](stopped)[/dim]', end='')
        console.print()
        messages.append({'role': 'assistant', 'content': answer})
