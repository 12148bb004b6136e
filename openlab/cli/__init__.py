"""The ``openlab`` command: finds the subcommand, runs it, turns user errors into one message.

A subcommand is a module with ``HELP``, ``add_arguments(parser)`` and ``run(args) -> int``. Only
the module that was asked for is imported, and it imports heavy libraries inside ``run``; so
``openlab train --help`` answers without torch.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import NoReturn

import openlab

COMMANDS: dict[str, tuple[str, str]] = {
    'train': ('openlab.cli.train', 'train the model of a config, or resume it'),
    'test': ('openlab.cli.test', 'evaluate weights, or predictions dumped earlier'),
    'probe': ('openlab.cli.probe', 'judge features: nearest neighbours, a linear classifier'),
    'infer': ('openlab.cli.infer', 'run a model on images, folders or videos'),
    'generate': ('openlab.cli.generate', 'continue a prompt with a language model'),
    'chat': ('openlab.cli.chat', 'talk to a language model in the terminal'),
    'config': ('openlab.cli.config', 'show, explain, compare, check and change configs'),
    'registry': ('openlab.cli.registry', 'list and describe components'),
    'data': ('openlab.cli.data', 'check, show and time the data of a config'),
    'model': ('openlab.cli.model', 'parameters, FLOPs, throughput and latency of a model'),
    'log': ('openlab.cli.log', 'plot, compare and export the logs of runs'),
    'visualize': ('openlab.cli.visualize', 'features, Grad-CAM, schedules, augmentations, t-SNE'),
    'zoo': ('openlab.cli.zoo', 'find, download and check published weights'),
    'convert': ('openlab.cli.convert', 'write weights of any format as safetensors'),
    'doctor': ('openlab.cli.doctor', 'versions, devices and what is active on this machine'),
}

# What a user can cause: a message is enough. Anything else is a fault, and shows its traceback.
USER_ERRORS = (ValueError, KeyError, TypeError, OSError, ImportError, NotImplementedError)

EPILOG = """\
openlab COMMAND --help   arguments of a command
--debug                  (with any command) show the traceback of an error
--version                print the version"""


class Parser(argparse.ArgumentParser):
    """An argument parser that answers a mistyped option or choice with the nearest one."""

    def __init__(self, *args: object, **kwargs: object):
        kwargs.setdefault('allow_abbrev', False)
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """Print usage, the message and near matches; exit with 2."""
        wrong = re.search(r"invalid choice: '([^']*)'|unrecognized arguments: (\S+)", message)
        if wrong:
            name = next(group for group in wrong.groups() if group)
            message += did_you_mean(name, list(known_words(self)))
        super().error(message)


def known_words(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Every option and choice of a parser and of the parsers below it."""
    for action in parser._actions:
        yield from action.option_strings
        yield from map(str, action.choices or ())
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from known_words(child)


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return ``; did you mean X?`` when something known is near, else an empty string."""
    near = difflib.get_close_matches(name.split('=')[0], known, n=3, cutoff=0.6)
    return f'; did you mean {" or ".join(dict.fromkeys(near))}?' if near else ''


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``openlab ARGV`` and return its exit code.

    Returns:
        0 when all went well, 2 for an error that the user can cure, 130 after Ctrl-C, and
        what the subcommand returns else. A fault of the program raises.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    warnings.formatwarning = _format_warning
    debug, arguments = _take_debug(arguments)
    if not arguments or arguments[0] in ('-h', '--help', 'help'):
        print(overview())
        return 0 if arguments else 2
    if arguments[0] in ('-V', '--version'):
        print(f'openlab {openlab.__version__}')
        return 0
    name = arguments[0]
    if name not in COMMANDS:
        print(f'openlab: no command {name!r}{did_you_mean(name, list(COMMANDS))}\n'
              f'commands: {", ".join(COMMANDS)}', file=sys.stderr)
        return 2
    try:
        return run_command(name, arguments[1:])
    except KeyboardInterrupt:
        if debug:
            raise
        print('openlab: interrupted', file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (`| head`) has left; without this, Python complains once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except USER_ERRORS as error:
        if debug:
            raise
        print(f'openlab {name}: {message_of(error)}', file=sys.stderr)
        return 2


_PLAIN_FORMAT = warnings.formatwarning


def _format_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int,
                    line: str | None = None) -> str:
    """Notes on a config are for users, whom no line of our source helps."""
    if category.__name__ == 'ConfigWarning':
        return f'note: {message}\n'
    return _PLAIN_FORMAT(message, category, filename, lineno, line)


def run_command(name: str, arguments: Sequence[str]) -> int:
    """Import the module of a command, parse its arguments and run it."""
    module = importlib.import_module(COMMANDS[name][0])
    parser = Parser(
        prog=f'openlab {name}', description=module.HELP, epilog='--debug shows tracebacks',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    return int(module.run(parser.parse_args(list(arguments))) or 0)


def overview() -> str:
    """Text of ``openlab --help``: every command with one line."""
    width = max(map(len, COMMANDS))
    rows = '\n'.join(f'  {name:{width}}  {text}' for name, (_, text) in COMMANDS.items())
    return f'usage: openlab COMMAND ...\n\n{openlab.__doc__}\n\ncommands:\n{rows}\n\n{EPILOG}'


def message_of(error: BaseException) -> str:
    """What an exception says, in words a user can act on."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f'{error.strerror}: {error.filename}'
    if type(error) is KeyError and error.args:  # str() of a KeyError is only the quoted key
        return f'missing key {error.args[0]!r} (add --debug for the traceback)'
    text = str(error) or 'no message (add --debug for the traceback)'
    named = isinstance(error, (TypeError, NotImplementedError))
    return f'{type(error).__name__}: {text}' if named or not str(error) else text


def _take_debug(arguments: list[str]) -> tuple[bool, list[str]]:
    end = arguments.index('--') if '--' in arguments else len(arguments)
    kept = [a for a in arguments[:end] if a != '--debug']
    return len(kept) < end, kept + arguments[end:]
