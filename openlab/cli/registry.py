"""``openlab registry``: list, find and describe components, read from source without importing."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openlab.registry import Entry, Registry

HELP = 'list and describe components'
_ARXIV = re.compile(r'(?:https?://)?arxiv\.org/(?:abs|pdf)/[\w.\-/]*\w', re.IGNORECASE)


@dataclass(frozen=True)
class Description:
    """What the source says of a component.

    Attributes:
        signature: ``Name(arguments)``, or ``Name(...)`` where the constructor is inherited.
        summary: first sentence line of its docstring.
        paper: from a ``Paper:`` line, else the first arXiv link of the class or its file.
        text: whole docstring.
    """

    signature: str
    summary: str
    paper: str
    text: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    what = parser.add_subparsers(dest='what', required=True, metavar='WHAT')
    ls = what.add_parser('ls', help='list components, of one kind or all')
    ls.add_argument('kind', nargs='?', metavar='KIND', help='model, dataset, transform, hook ...')
    find = what.add_parser('find', help='list components whose name or summary has a word')
    find.add_argument('name', metavar='NAME')
    show = what.add_parser('show', help='signature, arguments, file and paper of one component')
    show.add_argument('name', metavar='NAME')


def run(args: argparse.Namespace) -> int:
    """Print what was asked for; 1 where nothing is found."""
    if args.what == 'ls':
        return _ls(args.kind)
    return _find(args.name) if args.what == 'find' else _show(args.name)


def _ls(kind: str | None) -> int:
    from openlab.registry import REGISTRIES

    chosen = list(REGISTRIES.values())
    if kind is not None:
        chosen = [_registry(kind)]
    rows = [(r, e) for r in chosen for e in _entries(r)]
    _print_rows(rows)
    if kind is not None and chosen[0].libraries:
        print(f'and every class of {", ".join(chosen[0].libraries)}')
    return 0


def _find(name: str) -> int:
    from openlab.config.errors import near
    from openlab.registry import REGISTRIES

    word = name.lower()
    rows = [(r, e) for r in REGISTRIES.values() for e in _entries(r)]
    found = [
        (r, e) for r, e in rows
        if word in e.name.lower() or word in describe_entry(e).summary.lower()
    ]
    if not found:
        close = near(name, [e.name for _, e in rows])
        found = [(r, e) for r, e in rows if e.name in close]
        print(f'nothing is named {name!r}' + ('; near:' if found else ''))
        _print_rows(found)
        return 1
    _print_rows(found)
    return 0


def _show(name: str) -> int:
    from openlab.registry import REGISTRIES, UnknownComponentError

    found = [(r, e) for r in REGISTRIES.values() for e in _entries(r) if e.name == name]
    if not found:
        return _show_imported(name)
    for registry, entry in found:
        shown = describe_entry(entry)
        signature = shown.signature
        if signature.endswith('(...)'):  # an inherited constructor: only an import can tell
            try:
                signature = _signature(registry.get(entry.name))
            except (ImportError, UnknownComponentError) as error:
                signature += f'  # {error}'
        _print_details(entry.name, registry.name, _place(entry), entry.module, signature,
                       shown.paper, shown.text)
    return 0


def _show_imported(name: str) -> int:
    """Describe what no source of openlab registers: a dotted path, or a class of a library."""
    import inspect

    from openlab.config.build import resolve_type
    from openlab.registry import REGISTRIES, UnknownComponentError

    kind, found = '', None
    for registry in REGISTRIES.values():
        try:
            kind, found = registry.name, resolve_type(name, registry)
            break
        except UnknownComponentError:
            continue
    if found is None:
        from openlab.config.errors import hint

        names = [e.name for r in REGISTRIES.values() for e in _entries(r)]
        raise ValueError(f'no component named {name!r}{hint(name, names)}')
    place = f'{inspect.getsourcefile(found)}:{inspect.getsourcelines(found)[1]}'
    text = inspect.getdoc(found) or ''
    _print_details(found.__name__, kind, place, found.__module__, _signature(found),
                   find_paper(text), text)
    return 0


def _signature(target: Any) -> str:
    from openlab.config.build import show_signature

    return show_signature(target)


def _print_details(name: str, kind: str, place: str, module: str, signature: str, paper: str,
                   text: str) -> None:
    print(f'{name} ({kind})\n  {place}\n  from {module} import {name}\n  {signature}')
    if paper:
        print(f'  paper: {paper}')
    if text:
        print('\n' + '\n'.join(f'  {line}'.rstrip() for line in text.splitlines()))


def _print_rows(rows: list[tuple[Registry, Entry]]) -> None:
    if not rows:
        return
    kinds = max(len(r.name) for r, _ in rows)
    names = max(len(e.name) for _, e in rows)
    places = max(len(_place(e)) for _, e in rows)
    for registry, entry in rows:
        shown = describe_entry(entry)
        link = _ARXIV.search(shown.paper)
        paper = f'  [{link[0] if link else shown.paper}]' if shown.paper else ''
        print(f'{registry.name:{kinds}}  {entry.name:{names}}  {_place(entry):{places}}  '
              f'{shown.summary}{paper}'.rstrip())


def _entries(registry: Registry) -> Iterator[Entry]:
    yield from sorted(registry.entries().values(), key=lambda e: e.name.lower())


def _registry(kind: str) -> Registry:
    from openlab.config.errors import hint
    from openlab.registry import REGISTRIES

    by_name = {r.name: r for r in REGISTRIES.values()}
    by_name |= {f'{n}s': r for n, r in by_name.items()}
    if kind.lower() not in by_name:
        known = [r.name for r in REGISTRIES.values()]
        raise ValueError(
            f'no kind of component {kind!r}{hint(kind, known)} (there are {", ".join(known)})'
        )
    return by_name[kind.lower()]


def _place(entry: Entry) -> str:
    path = Path(entry.file)
    for root in (Path.cwd(), Path(__file__).resolve().parents[2]):
        if path.is_relative_to(root):
            path = path.relative_to(root)
            break
    return f'{path}:{entry.line}'


def describe_entry(entry: Entry) -> Description:
    """Read signature, summary and paper of a component off its source."""
    tree = _tree(entry.file)
    node = next(
        (n for n in ast.walk(tree)
         if isinstance(n, (ast.ClassDef, ast.FunctionDef)) and n.name == entry.name), None)
    if node is None:
        return Description(f'{entry.name}(...)', '', '', '')
    text = ast.get_docstring(node) or ''
    paper = find_paper(text) or find_paper(ast.get_docstring(tree) or '')
    return Description(_written_signature(node), text.partition('\n')[0], paper, text)


def find_paper(text: str) -> str:
    """Return what a ``Paper:`` line of a docstring says, else its first arXiv link."""
    match = re.search(r'^\s*Paper:\s*(.+?)(?:\n\s*\n|\Z)', text, re.MULTILINE | re.DOTALL)
    if match:
        return ' '.join(match[1].split())
    match = _ARXIV.search(text)
    return match[0] if match else ''


def _written_signature(node: ast.ClassDef | ast.FunctionDef) -> str:
    function: Any = node
    if isinstance(node, ast.ClassDef):
        function = next((n for n in node.body
                         if isinstance(n, ast.FunctionDef) and n.name == '__init__'), None)
        if function is None:
            return f'{node.name}(...)'
    arguments = ast.unparse(function.args)
    if isinstance(node, ast.ClassDef):
        arguments = re.sub(r'^self(, )?', '', arguments)
    return f'{node.name}({arguments})'


@cache
def _tree(file: str) -> ast.Module:
    return ast.parse(Path(file).read_text(encoding='utf-8'))
