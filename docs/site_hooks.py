"""Pages of the site that are read from the code: commands, components, configs, zoo, API.

None of them lies in the repository, so none can go stale.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from openlab.cli import COMMANDS, Parser
from openlab.registry import REGISTRIES, Entry
from openlab.shipped import shipped_root


def on_files(files: Files, config: object) -> Files:
    """Add the generated pages to those that lie in the folder."""
    pages = {
        'reference/command_line.md': command_line(),
        'reference/components.md': components(),
        'reference/configs.md': configs(),
        'reference/zoo.md': zoo(),
        **api(),
    }
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def command_line() -> str:
    """Help of every command."""
    import importlib

    parts = ['# Command line\n', 'What `openlab COMMAND --help` prints.\n']
    for name, (module_name, text) in COMMANDS.items():
        module = importlib.import_module(module_name)
        parser = Parser(prog=f'openlab {name}', description=module.HELP)
        module.add_arguments(parser)
        parts.append(f'## openlab {name}\n\n{text[0].upper()}{text[1:]}.\n')
        parts += [f'```text\n{p.format_help().rstrip()}\n```\n' for p in with_children(parser)]
    return '\n'.join(parts)


def with_children(parser: Parser) -> Iterator[Parser]:
    """A parser and the parsers of its nested commands."""
    yield parser
    for action in parser._actions:
        children = action.choices if isinstance(action.choices, dict) else {}
        for child in dict.fromkeys(children.values()):
            yield from with_children(child)


def components() -> str:
    """Every registered component, by registry, with the first line of its docstring."""
    parts = ['# Components\n', 'What `openlab registry ls` lists. A `type` in a config may name '
             'any of these, any class by its dotted path, and the classes of the libraries that '
             'are mentioned.\n']
    for name, registry in REGISTRIES.items():
        if REGISTRIES.get(name) is not registry or name != name.upper():
            continue
        parts.append(f'## {registry.name}\n')
        if registry.libraries:
            libraries = ', '.join(f'`{library}`' for library in registry.libraries)
            parts.append(f'Also every class of {libraries}.\n')
        parts.append('| name | what it is |\n|---|---|')
        for entry in sorted(registry.entries().values(), key=lambda e: e.name):
            page = f'api/{entry.module}.md#{entry.module}.{entry.name}'
            parts.append(f'| [`{entry.name}`]({page}) | {summary(entry)} |')
        parts.append('')
    return '\n'.join(parts)


def summary(entry: Entry) -> str:
    """First line of the docstring of a component, read without importing it."""
    tree = ast.parse(Path(entry.file).read_text('utf-8'))
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == entry.name:
            doc = ast.get_docstring(node) or ''
            return doc.split('\n\n')[0].replace('\n', ' ').replace('|', r'\|')
    return ''


def configs() -> str:
    """Every shipped config with its docstring and its command."""
    folder = shipped_root() / 'configs'
    parts = ['# Shipped configs\n', 'They travel in the installed package; `openlab config show '
             'NAME` prints one resolved.\n']
    for file in sorted(folder.rglob('*.py')):
        name = file.relative_to(folder).with_suffix('').as_posix()
        if any(part.startswith('_') for part in Path(name).parts):
            continue
        doc = ast.get_docstring(ast.parse(file.read_text('utf-8'))) or 'No description.'
        parts.append(f'## {name}\n\n```text\n{doc}\n```\n')
    return '\n'.join(parts)


def zoo() -> str:
    """The zoo in numbers: what is listed and what runs, by source and by task."""
    from openlab.zoo.index import rows, shares, status

    own = '\n'.join(f'* `{row.name}`, {", ".join(row.tasks)}: {status(row)}'
                    for row in rows() if row.source == 'openlab')
    parts = ['# Model zoo\n', f'{len(rows())} published models, each with its files, results and '
             'terms; `openlab zoo ls` lists them, `openlab zoo show NAME` tells all of one. An '
             'entry *runs* once a check is recorded that its names and shapes fit a config.\n',
             f'## Ours\n\n{own}\n']
    for key in ('source', 'task'):
        parts.append(f'## By {key}\n\n| {key} | runs | entries |\n|---|---|---|')
        parts += [f'| {name} | {run} | {total} |' for name, (run, total) in shares(key).items()]
        parts.append('')
    return '\n'.join(parts)


def api() -> dict[str, str]:
    """One page for each module that has anything in it, and a page that lists them."""
    pages, rows = {}, []
    for file in sorted((ROOT / 'openlab').rglob('*.py')):
        tree = ast.parse(file.read_text('utf-8'))
        parts = file.relative_to(ROOT).with_suffix('').parts
        module = '.'.join(p for p in parts if p != '__init__')
        if not tree.body or file.name == '__main__.py':
            continue
        doc = (ast.get_docstring(tree) or '').split('\n\n')[0].replace('\n', ' ')
        pages[f'reference/api/{module}.md'] = f'::: {module}\n'
        rows.append(f'| [`{module}`]({module}.md) | {doc} |')
    head = '# Python API\n\nRead from the docstrings.\n\n| module | what it is |\n|---|---|\n'
    pages['reference/api/index.md'] = head + '\n'.join(rows) + '\n'
    return pages
