"""Rules of the house that no linter knows."""

import ast
import re
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from openlab.registry import REGISTRIES, scan_package

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'openlab'
SOURCES = sorted(PACKAGE.rglob('*.py'))
LONGEST_FUNCTION = 90
LONGEST_UTILS = 150


def in_repository():
    """Text files that git knows; in an unpacked source archive, those that would be in it."""
    listed = subprocess.run(
        ['git', 'ls-files'], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split('\n')
    files = [ROOT / name for name in listed if name] or [
        f for part in ('openlab', 'configs', 'docs', 'tests', 'tools', 'benchmarks')
        for f in (ROOT / part).rglob('*')
    ]
    kinds = {'.py', '.md', '.toml', '.yml', '.yaml', '.json', '.cff', '.svg', '.in', ''}
    return [f for f in files if f.is_file() and f.suffix in kinds]


def functions(file):
    for node in ast.walk(ast.parse(file.read_text('utf-8'))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def length_without_docstring(function):
    first = function.body[0]
    is_doc = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    begin = first.end_lineno if is_doc else function.lineno
    return function.end_lineno - begin


def test_no_function_is_too_long_to_read():
    long = [
        f'{file.relative_to(ROOT)}:{f.lineno} {f.name}: {length_without_docstring(f)} lines'
        for file in SOURCES for f in functions(file)
        if length_without_docstring(f) > LONGEST_FUNCTION
    ]
    assert not long, '\n'.join(long)


def test_most_functions_are_short():
    lengths = sorted(length_without_docstring(f) for file in SOURCES for f in functions(file))
    assert lengths[len(lengths) // 2] <= 12
    assert lengths[int(len(lengths) * 0.95)] <= 65


def test_component_names_are_unique_in_their_registry():
    places = defaultdict(list)
    for registry in {id(r): r for r in REGISTRIES.values()}.values():
        for package in registry.packages:
            try:
                found = scan_package(package)
            except ModuleNotFoundError:
                continue
            for entry in found:
                if REGISTRIES.get(entry.registry) is registry:
                    places[registry.name, entry.name].append(f'{entry.file}:{entry.line}')
    assert places, 'no component found at all'
    twice = {key: where for key, where in places.items() if len(where) > 1}
    assert not twice


def test_every_registration_lies_where_its_registry_searches():
    lost = []
    for file in SOURCES:
        module = '.'.join(file.relative_to(ROOT).with_suffix('').parts)
        for name in re.findall(r'^@([A-Z_]+)\.register_module', file.read_text('utf-8'), re.M):
            packages = REGISTRIES[name].packages
            if not any(module == p or module.startswith(p + '.') for p in packages):
                lost.append(f'{file.relative_to(ROOT)} registers in {name}')
    assert not lost, '\n'.join(lost)


def test_files_named_utils_stay_small():
    for file in SOURCES:
        assert file.stem not in {'misc', 'common2', 'helpers2'}, file
        if 'utils' in file.stem:
            assert len(file.read_text('utf-8').splitlines()) <= LONGEST_UTILS, file


@pytest.mark.parametrize(
    ('pattern', 'why'),
    [
        (r'(?<![\w.])/(?:home|root|work|Users)/\w', 'an absolute path of one machine'),
        (r'pypi\.org|pythonhosted\.org|index-url|extra-index', 'a package index'),
        (r'\bTODO\b(?!\(#\d+\))|\bFIXME\b|\bXXX\b', 'a TODO without an issue'),
    ],
)
def test_the_tree_holds_no(pattern, why):
    found = []
    for file in in_repository():
        if file == Path(__file__).resolve() or file.name in ('LICENSE',):
            continue
        text = file.read_text('utf-8', errors='ignore')
        for number, line in enumerate(text.splitlines(), 1):
            if re.search(pattern, line):
                found.append(f'{file.relative_to(ROOT)}:{number}: {why}: {line.strip()[:80]}')
    assert not found, '\n'.join(found)


def test_nothing_loads_pickles_unguarded():
    for file in SOURCES:
        if file.name == 'convert_weights.py':  # behind a flag whose name says so
            continue
        for node in ast.walk(ast.parse(file.read_text('utf-8'))):
            is_load = isinstance(node, ast.Call) and ast.unparse(node.func) == 'torch.load'
            if is_load:
                safe = {k.arg: ast.unparse(k.value) for k in node.keywords}.get('weights_only')
                assert safe == 'True', f'{file.relative_to(ROOT)}:{node.lineno}'


def test_public_classes_have_a_docstring():
    missing = [
        f'{file.relative_to(ROOT)}:{node.lineno} {node.name}'
        for file in SOURCES
        for node in ast.parse(file.read_text('utf-8')).body
        if isinstance(node, ast.ClassDef) and node.name[0] != '_' and not ast.get_docstring(node)
    ]
    assert not missing, '\n'.join(missing)
