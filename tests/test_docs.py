"""Links lead somewhere, commands and code run, words are those of the glossary.

A comment before a fenced block says what a test does with it:

    <!-- file: name.py -->     write it to that file (a block may show only a part: no comment)
    <!-- run -->               run it: bash or Python, in a folder that the page has to itself
    <!-- run: slow -->         the same; the whole page is tested with the slow tests

The blocks of a page share a folder and run in order.
"""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from openlab.cli import COMMANDS, Parser

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [*ROOT.glob('*.md'), *(ROOT / 'docs').rglob('*.md'), *(ROOT / 'configs').rglob('*.md')]
)
BLOCK = re.compile(
    r'(?:^<!--[ ]*(?P<mark>[^\n]*?)[ ]*-->\n+)?^```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^```$',
    re.M | re.S
)
LINK = re.compile(r'(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)')


def blocks(page):
    return [m.groupdict() for m in BLOCK.finditer(page.read_text('utf-8'))]


def marked(page):
    return [b for b in blocks(page) if b['mark'] and b['mark'].split(':')[0] in ('run', 'file')]


def page_id(page):
    return page.relative_to(ROOT).as_posix()


def slow_if_said(page):
    is_slow = any(b['mark'] == 'run: slow' for b in marked(page))
    return pytest.param(page, id=page_id(page), marks=[pytest.mark.slow] if is_slow else [])


def prose(page):
    return BLOCK.sub('', page.read_text('utf-8'))


def anchors(page):
    titles = re.findall(r'^#+[ ]+(.+?)[ ]*$', prose(page), re.M)
    return {re.sub(r'[^\w\- ]', '', t.lower()).strip().replace(' ', '-') for t in titles}


@pytest.fixture
def shell(tmp_path):
    """Environment in which `openlab` and `python` are those of this checkout."""
    folder = tmp_path / 'bin'
    folder.mkdir()
    for name, arguments in {'openlab': '-m openlab', 'python': ''}.items():
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        script.chmod(0o755)
    return {
        **os.environ, 'PATH': f'{folder}{os.pathsep}{os.environ["PATH"]}', 'PYTHONPATH': str(ROOT),
        'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'Agg', 'COLUMNS': '120',
    }


@pytest.mark.parametrize('page', [slow_if_said(p) for p in PAGES if marked(p)])
def test_code_of_a_page_runs(page, tmp_path, shell):
    folder = tmp_path / 'work'
    folder.mkdir()
    for number, block in enumerate(marked(page)):
        kind, _, argument = block['mark'].partition(': ')
        if kind == 'file':
            (folder / argument).parent.mkdir(parents=True, exist_ok=True)
            (folder / argument).write_text(block['text'], 'utf-8')
            continue
        command = {
            'bash': ['bash', '-eu', '-c', block['text']],
            'python': [sys.executable, '-c', block['text']],
        }[block['language']]
        done = subprocess.run(
            command, cwd=folder, env=shell, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, (
            f'block {number} of {page_id(page)}:\n{block["text"]}\n'
            f'{done.stdout[-3000:]}\n{done.stderr[-3000:]}'
        )


@pytest.mark.parametrize('page', PAGES, ids=page_id)
def test_links_of_a_page_lead_somewhere(page):
    broken = []
    for match in LINK.finditer(prose(page)):
        target = match[1] or match[2]
        if re.match(r'[a-z]+:', target):
            continue
        path, _, anchor = target.partition('#')
        file = (page.parent / path).resolve() if path else page
        if 'reference/' in path:  # generated; the site build checks these
            continue
        if not file.exists() or (anchor and file.suffix == '.md' and anchor not in anchors(file)):
            broken.append(target)
    assert not broken, f'{page_id(page)}: {broken}'


@pytest.mark.parametrize('page', PAGES, ids=page_id)
def test_python_blocks_parse(page):
    for block in blocks(page):
        if block['language'] == 'python':
            ast.parse(block['text'])


def openlab_lines():
    for page in PAGES:
        text = page.read_text('utf-8')
        lines = [
            line.strip() for b in blocks(page) if b['language'] in ('bash', 'sh', 'text')
            for line in b['text'].replace('\\\n', ' ').splitlines()
        ] + re.findall(r'`(openlab [^`]+)`', text)
        for line in lines:
            match = re.search(r'(?:^|[;&|] *)openlab ([a-z-]+)(.*)', line)
            if match and match[1].isalpha():
                yield page_id(page), match[1], match[2].split(' #')[0]


def known_options(name):
    import importlib

    parser = Parser()
    importlib.import_module(COMMANDS[name][0]).add_arguments(parser)
    options, children, todo = {'--debug', '--help', '-h'}, set(), [parser]
    while todo:
        for action in todo.pop()._actions:
            options |= set(action.option_strings)
            if isinstance(action.choices, dict):
                children |= set(action.choices)
                todo += action.choices.values()
    return options, children


def test_commands_and_options_in_the_docs_exist():
    wrong = []
    for page, name, rest in openlab_lines():
        if name == 'COMMAND':
            continue
        if name not in COMMANDS:
            wrong.append(f'{page}: openlab {name}')
            continue
        options, children = known_options(name)
        words = rest.split()
        wrong += [f'{page}: openlab {name} {w}' for w in words
                  if w.startswith('-') and w.split('=')[0] not in options]
        if children and words and words[0].isalpha() and words[0].islower():
            wrong += [f'{page}: openlab {name} {words[0]}'] if words[0] not in children else []
    assert not wrong, '\n'.join(wrong)


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / 'mkdocs.yml').read_text('utf-8')
    for page in (ROOT / 'docs').rglob('*.md'):
        name = page.relative_to(ROOT / 'docs').as_posix()
        if not name.startswith('examples/'):
            assert f': {name}' in navigation, f'{name} is missing in mkdocs.yml'


def glossary():
    """Rows of the glossary: word, and the words that may not stand for it."""
    rows = re.findall(r'^\| ([^|]+) \| [^|]* \| ?([^|]*)\|$',
                      (ROOT / 'docs/glossary.md').read_text('utf-8'), re.M)
    return {word.strip(): re.findall(r'`([^`]+)`', avoid) for word, avoid in rows[1:]}


def test_the_glossary_is_sorted_and_has_no_word_twice():
    words = [w.lower() for w in glossary()]
    assert words == sorted(words)
    avoided = [w for words in glossary().values() for w in words]
    assert len(avoided) == len(set(avoided))
    assert not set(avoided) & set(words)


def test_code_uses_the_words_of_the_glossary():
    instead = {wrong: word for word, avoid in glossary().items() for wrong in avoid}
    found = []
    for file in sorted((ROOT / 'openlab').rglob('*.py')):
        for node in ast.walk(ast.parse(file.read_text('utf-8'))):
            names = []
            if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
                names.append(node.name)
            elif isinstance(node, ast.arg):
                names.append(node.arg)
            found += [f'{file.relative_to(ROOT)}:{node.lineno} {n}: say {instead[n]!r}'
                      for n in names if n in instead]
    assert not found, '\n'.join(found)


def test_the_site_has_a_generated_page_for_every_module(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'docs'))
    pytest.importorskip('mkdocs')
    import site_hooks

    pages = site_hooks.api()
    for file in (ROOT / 'openlab').rglob('*.py'):
        if file.name[:2] != '__':
            module = '.'.join(file.relative_to(ROOT).with_suffix('').parts)
            assert f'reference/api/{module}.md' in pages
    assert '| [`ResNet`](api/openlab.backbones.resnet.md' in site_hooks.components()
    assert '## quickstart/classification' in site_hooks.configs()
    assert '## openlab train' in site_hooks.command_line()
